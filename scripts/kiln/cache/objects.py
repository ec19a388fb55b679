"""Read and write the objects of a bucket or shared folder: names with slashes, and bytes."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from kiln.cache.address import Address

#: How a file that is being written ends, on backends where it is seen before it is whole.
ASIDE = ".part"


@dataclass(frozen=True)
class Listed:
    """An object in a listing: its size in bytes and, by the backend's clock, when it was written
    (seconds since 1970)."""

    name: str
    size: int
    written: float


class Objects(Protocol):
    """The storage behind a cache. Its methods raise whatever the backend's library raises."""

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes ``start`` to ``end`` (exclusive), fewer at the object's end.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def write(self, name: str, data: bytes) -> None:
        """Write an object whole, in the place of an older one."""

    def create(self, name: str, data: bytes) -> None:
        """Write an object that does not exist.

        Raises:
            FileExistsError: it does.
        """

    def upload(self, name: str, path: Path) -> None:
        """Write an object from a file; readers see it whole or not at all."""

    def remove(self, name: str) -> None:
        """Remove an object; a missing one is none."""

    def listed(self, prefix: str) -> list[Listed]:
        """List the objects below ``prefix``; empty where there are none.

        Raises:
            FileNotFoundError: the bucket or folder of the cache does not exist.
        """


class FsspecObjects:
    """Objects of any backend of fsspec.

    The library is imported, and the connection made, at the first use.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._opened: Any = None
        # Elsewhere an object appears at the end of its upload; files grow under the readers' eyes.
        self._grows = address.scheme in {"file", "sftp"}

    def read(self, name: str, start: int, end: int) -> bytes:
        """See :meth:`Objects.read`."""
        data: bytes = self._fs.cat_file(self._place(name), start=start, end=end)
        return data

    def write(self, name: str, data: bytes) -> None:
        """See :meth:`Objects.write`."""
        if self._grows:
            aside = self._aside(name)
            self._fs.pipe_file(aside, data)
            self._fs.mv(aside, self._place(name))
        else:
            self._fs.pipe_file(self._place(name), data)

    def create(self, name: str, data: bytes) -> None:
        """See :meth:`Objects.create`.

        On SFTP, and where there are no hard links, two writers at one moment may both succeed.
        """
        if not self._grows:
            self._fs.pipe_file(self._place(name), data, mode="create")
            return
        if self._fs.exists(self._place(name)):
            raise FileExistsError(name)
        aside = self._aside(name)
        self._fs.pipe_file(aside, data)
        try:
            if not self._linked(aside, self._place(name)):
                self._fs.mv(aside, self._place(name))
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(aside)

    def _linked(self, aside: str, place: str) -> bool:
        """Give a file a second name where there are hard links; return whether that was possible.

        Raises:
            FileExistsError: the name is taken.
        """
        link = getattr(self._fs, "link", None)  # fsspec's SFTP has no such method
        if link is None:
            return False
        try:
            link(aside, place)
        except FileExistsError:
            raise
        except OSError:  # the file system has no links
            return False
        return True

    def upload(self, name: str, path: Path) -> None:
        """See :meth:`Objects.upload`."""
        if self._grows:
            aside = self._aside(name)
            try:
                self._fs.put_file(str(path), aside)
                self._fs.mv(aside, self._place(name))
            except BaseException:
                with contextlib.suppress(Exception):
                    self._fs.rm_file(aside)
                raise
        else:
            self._fs.put_file(str(path), self._place(name))

    def remove(self, name: str) -> None:
        """See :meth:`Objects.remove`."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(name))

    def listed(self, prefix: str) -> list[Listed]:
        """See :meth:`Objects.listed`."""
        root = f"{self._address.root}/"
        found: Mapping[str, Mapping[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError):
            found = self._fs.find(self._place(prefix), detail=True)
        if not found and not self._fs.exists(self._outermost()):
            raise FileNotFoundError(self._address.root)
        return [
            Listed(place.removeprefix(root), int(about.get("size") or 0), _written(about))
            for place, about in found.items()
            if place.startswith(root)
        ]

    def _outermost(self) -> str:
        """Return what has to exist before anything is written: the bucket, or the folder."""
        root = self._address.root
        return root if self._grows else root.partition("/")[0]

    def _place(self, name: str) -> str:
        return f"{self._address.root}/{name}"

    def _aside(self, name: str) -> str:
        """Return a fresh name beside ``name``, whose folder exists then.

        Raises:
            FileNotFoundError: the cache's own folder does not exist: its disk may not be mounted.
        """
        place = self._place(name)
        if not self._fs.isdir(self._outermost()):
            raise FileNotFoundError(self._address.root)
        self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
        return f"{place}.{secrets.token_hex(4)}{ASIDE}"

    @property
    def _fs(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = _connect(self._address)
            return self._opened


def _connect(address: Address) -> Any:
    """Open the backend; nothing that it lists is remembered, for others write there, too."""
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if address.scheme == "s3":
        # kiln has a deadline for each call: a library that tries for minutes only holds threads.
        options["config_kwargs"] = {
            "connect_timeout": 5,
            "read_timeout": 15,
            "retries": {"max_attempts": 1},
        }
    elif address.scheme == "sftp":
        options |= {"host": address.host, "timeout": 10}
        options |= {"port": address.port} if address.port else {}
        options |= {"username": address.user} if address.user else {}
    return fsspec.filesystem(address.scheme, **options)


def _written(about: Mapping[str, Any]) -> float:
    for name in ("mtime", "LastModified", "updated"):
        value = about.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
