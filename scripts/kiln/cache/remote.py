"""Keep contents and signed results in a bucket or shared folder.

::

    blobs/sha256/ab/<hex>.gz         contents by digest
    results/<key>/<worker>.json      what a stage made, signed by the worker with this key id
    leases/<digest>.json             who is at work on a plan (kiln.cache.leases)

Contents are written before the results that name them. Nothing here is trusted: a content counts
by its digest, a result by its signature, which the caller checks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from kiln.cache import transit
from kiln.cache.objects import Listed, Objects
from kiln.core.errors import DigestMismatchError
from kiln.core.stage_result import Blob
from kiln.core.store import Store
from kiln.project import bounds

_RESULT = re.compile(r"results/([0-9a-f]{64})/([0-9a-f]{64})\.json")
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})\.gz")


class RemoteCache(Protocol):
    """Contents by digest, and signed results by key and worker.

    Its methods raise FileNotFoundError for what is not there, and otherwise whatever its backend
    raises. They may take any time: :class:`kiln.cache.calls.Calls` bounds it.
    """

    def has(self, digest: str) -> bool:
        """Whether there is a content; neither size nor bytes are checked."""

    def get(self, blob: Blob, store: Store) -> None:
        """Copy a content into the store; DigestMismatchError if it is another."""

    def put(self, blob: Blob, path: Path, scratch: Path) -> int:
        """Write a content from a file; return the bytes that travelled. ``scratch`` is a private
        folder on this machine."""

    def get_result(self, key: str, worker: str) -> bytes:
        """Return the signed result of one worker; DigestMismatchError if it is too large."""

    def put_result(self, key: str, worker: str, envelope: bytes) -> None:
        """Write a signed result, in the place of an older one of this worker."""


class _RemoteError(Exception):
    """An error of the remote side, on its way through the store, which has errors like it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class ObjectCache:
    """A remote cache of objects."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

    def has(self, digest: str) -> bool:
        """See :meth:`RemoteCache.has`."""
        try:
            return bool(self.objects.read(blob_name(digest), 0, 1))
        except FileNotFoundError:
            return False

    def get(self, blob: Blob, store: Store) -> None:
        """See :meth:`RemoteCache.get`."""
        name = blob_name(blob.sha256)

        def read(start: int, end: int) -> bytes:
            try:
                return self.objects.read(name, start, end)
            except Exception as error:
                raise _RemoteError(error) from error

        try:
            store.add_chunks(transit.unpack(read, blob.size), blob.size, blob.sha256)
        except _RemoteError as passed:
            raise passed.error from None

    def put(self, blob: Blob, path: Path, scratch: Path) -> int:
        """See :meth:`RemoteCache.put`."""
        packed = scratch / blob.sha256
        size = transit.pack(path, packed)
        self.objects.upload(blob_name(blob.sha256), packed)
        packed.unlink()
        return size

    def get_result(self, key: str, worker: str) -> bytes:
        """See :meth:`RemoteCache.get_result`."""
        most = bounds.STATEMENT.most
        data = self.objects.read(result_name(key, worker), 0, most + 1)
        if len(data) > most:
            raise DigestMismatchError("A result in the cache is too large.", "It is made again.")
        return data

    def put_result(self, key: str, worker: str, envelope: bytes) -> None:
        """See :meth:`RemoteCache.put_result`."""
        self.objects.write(result_name(key, worker), envelope)

    def results(self, key: str = "") -> dict[tuple[str, str], Listed]:
        """List the results, of one key or of all: key and worker -> object."""
        listed = self.objects.listed(f"results/{key}" if key else "results")
        matches = ((_RESULT.fullmatch(item.name), item) for item in listed)
        return {(match[1], match[2]): item for match, item in matches if match}

    def blobs(self) -> dict[str, Listed]:
        """List the contents: digest -> object."""
        matches = ((_BLOB.fullmatch(item.name), item) for item in self.objects.listed("blobs"))
        return {match[2]: item for match, item in matches if match}


def blob_name(digest: str) -> str:
    """Return the name of a content's object."""
    return f"blobs/sha256/{digest[:2]}/{digest}.gz"


def result_name(key: str, worker: str) -> str:
    """Return the name of the object with a worker's result."""
    return f"results/{key}/{worker}.json"
