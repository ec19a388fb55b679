"""Store content by digest: everything kiln keeps between runs, safe to kill at any moment.

::

    blobs/sha256/ab/<hex>   content by digest, read-only
    results/<key>.json      what a stage made: names, blobs, facts
    refs/<kind>/<name>.json small remembered facts (which file a pin stands for, …)
    downloads/              partial downloads, resumed by the next run
    tmp/                    private scratch of running processes
    locks/                  one lock file for each thing two processes must not do at once

A blob, result or ref is either complete or absent: all are written aside and renamed. Leftovers of
a killed process in ``tmp`` have its owner's tag; :meth:`Store.sweep` removes them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import filelock
import platformdirs

from kiln.core.digest import HASHING_THREADS, canonical_json, sha256_bytes, sha256_file
from kiln.core.errors import DigestMismatchError, StoreError
from kiln.core.files import (
    copy_file,
    disk_guard,
    make_private,
    remove,
    sweep_asides,
    sync_file,
    sync_folder,
    write_atomic,
)
from kiln.core.lease import is_abandoned, tagged_name
from kiln.core.stage_result import Blob, StageResult, manifest_of, parse_result, safe_name

_HEX64 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 4 << 20
_BLOB_MODE = 0o444
# Errors for which a hard link fails but a copy works: other file system, not permitted, too many
# links, not supported.
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


class FileMismatchError(DigestMismatchError):
    """A file has another digest than expected; both are kept as attributes."""

    def __init__(self, path: Path, expected: str, got: str) -> None:
        super().__init__(
            f"{path.name} is not the file that was pinned: SHA-256 expected {expected}, got {got}.",
            "Get it again from its publisher; if the change is intended, change the pin.",
        )
        self.expected = expected
        self.got = got


class DamagedContentError(StoreError):
    """A content did not match its digest, and was removed; ``what`` names it in the message."""

    def __init__(self, digest: str, what: str) -> None:
        super().__init__(
            f"The store's content {digest} ({what}) was damaged, and has been removed.",
            "Run the command again: it is fetched or made again. If the damage comes back, check "
            "the system's log for disk errors.",
        )


class Store:
    """A store in the folder ``root``; many processes may share it.

    A missing folder is created with access only for this user; an existing one stays as it is.

    Raises:
        StoreError: the folder cannot be made or written.
        DiskFullError: no space left (from every method that writes).
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._blobs = self.root / "blobs" / "sha256"
        self._results = self.root / "results"
        self._refs = self.root / "refs"
        self._locks = self.root / "locks"
        self.downloads = self.root / "downloads"
        self.tmp = self.root / "tmp"
        with disk_guard(self.root), self._usable():
            # The folder's permissions protect everything below it.
            make_private(self.root)
            for folder in (
                self._blobs,
                self._results,
                self._refs,
                self._locks,
                self.downloads,
                self.tmp,
            ):
                folder.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def default_root() -> Path:
        """Return ``$KILN_STORE``, or the user's cache folder for tflite-kiln."""
        named = os.environ.get("KILN_STORE")
        if named:
            return Path(named).expanduser().absolute()
        return platformdirs.user_cache_path("tflite-kiln")

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except filelock.Timeout:  # an OSError, too
            raise
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise
            what = f" ({error.filename})" if error.filename else ""
            raise StoreError(
                f"The store in {self.root} cannot be used: {error.strerror or error}{what}.",
                "Check who owns it and that it is writable, or set KILN_STORE to another folder.",
            ) from error

    # -- blobs ----------------------------------------------------------------------------------

    def has(self, digest: str) -> bool:
        """Whether the content is here (neither size nor bytes are checked)."""
        return self._place(digest).is_file()

    def sound(self, digest: str) -> bool:
        """Whether the content is here and matches its digest when read; else discard it."""
        with self._usable():
            try:
                if sha256_file(self._place(digest)) == digest:
                    return True
            except FileNotFoundError:
                return False
        self.discard(digest)
        return False

    def sound_among(self, digests: Iterable[str]) -> set[str]:
        """Return the digests whose contents are :meth:`sound`; several are read at a time."""
        unique = sorted(set(digests))
        with ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="read") as pool:
            return set(itertools.compress(unique, pool.map(self.sound, unique)))

    def read(self, digest: str, what: str) -> bytes:
        """Read the content; ``what`` names it in error messages.

        Raises:
            StoreError: it is not here.
            DamagedContentError: it is damaged.
        """
        with self._usable():
            data = self.path(digest).read_bytes()
        if sha256_bytes(data) != digest:
            self.discard(digest)
            raise DamagedContentError(digest, what)
        return data

    def path(self, digest: str) -> Path:
        """Return the content's path, for reading only; StoreError if it is not here."""
        place = self._place(digest)
        if not place.is_file():
            raise StoreError(
                f"The store has no content {digest}.", "Run the build again; it is made again."
            )
        return place

    def _place(self, digest: str) -> Path:
        if not _HEX64.fullmatch(digest):
            raise StoreError(
                f"{digest!r} is not a SHA-256.", "64 lower-case hex digits are needed."
            )
        return self._blobs / digest[:2] / digest

    def add_file(self, path: Path, *, move: bool = False, expect: str | None = None) -> str:
        """Add a file's content; return its digest.

        Args:
            path: the file.
            move: remove the file itself (a rename where the file system allows).
            expect: the digest it must have.

        Raises:
            FileMismatchError: it has another digest; nothing is stored, the file stays.
            StoreError: it is a link or not a plain file, or cannot be read.
        """
        with disk_guard(self.root), self._usable():
            about = path.lstat()
            if not stat.S_ISREG(about.st_mode):
                raise StoreError(f"{path} is not a plain file.", "Only plain files can be stored.")
            # Another name of the same inode would let someone write to our blob, and another
            # user's file could not be made read-only: both are copied instead.
            ours = about.st_nlink == 1 and about.st_uid == os.geteuid()
            if move and ours and about.st_dev == self.tmp.stat().st_dev:
                digest = sha256_file(path)
                self._expect(path, digest, expect)
                if not self._whole(digest, about.st_size):
                    sync_file(path)
                    self._publish(path, digest)
            else:
                digest = self._take_copy(path, expect)
            if move:
                path.unlink(missing_ok=True)
            return digest

    def _take_copy(self, path: Path, expect: str | None) -> str:
        aside = self.tmp / f"{tagged_name()}.blob"
        try:
            sha = hashlib.sha256()
            with path.open("rb") as source, aside.open("xb") as sink:
                while chunk := source.read(_CHUNK):
                    sha.update(chunk)
                    sink.write(chunk)
                digest, size = sha.hexdigest(), sink.tell()
                self._expect(path, digest, expect)
                if self._whole(digest, size):
                    return digest
                sink.flush()
                os.fsync(sink.fileno())
            self._publish(aside, digest)
            return digest
        finally:
            aside.unlink(missing_ok=True)

    def add_chunks(self, chunks: Iterable[bytes], size: int, expect: str) -> None:
        """Add a content in pieces, which must have the digest ``expect`` and ``size`` bytes.

        A content that is already here is not written again, but the pieces are still compared.

        Raises:
            DigestMismatchError: it has another digest; nothing is stored.
        """
        with disk_guard(self.root), self._usable():
            aside = self.tmp / f"{tagged_name()}.blob"
            sha = hashlib.sha256()
            try:
                if self._whole(expect, size):
                    for chunk in chunks:
                        sha.update(chunk)
                    self._expect_chunks(sha.hexdigest(), expect)
                    return
                with aside.open("xb") as sink:
                    for chunk in chunks:
                        sha.update(chunk)
                        sink.write(chunk)
                    self._expect_chunks(sha.hexdigest(), expect)
                    sink.flush()
                    os.fsync(sink.fileno())
                self._publish(aside, expect)
            finally:
                aside.unlink(missing_ok=True)

    @staticmethod
    def _expect_chunks(got: str, expect: str) -> None:
        if got != expect:
            raise DigestMismatchError(
                f"A content does not match its name: SHA-256 expected {expect}, got {got}.",
                "Get it again from its source.",
            )

    @staticmethod
    def _expect(path: Path, got: str, expect: str | None) -> None:
        if expect is not None and got != expect:
            raise FileMismatchError(path, expect, got)

    def _whole(self, digest: str, size: int) -> bool:
        try:
            return self._place(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def _publish(self, synced: Path, digest: str) -> None:
        """Rename a synced file of ours to its place; the same content may already be there."""
        place = self._place(digest)
        place.parent.mkdir(exist_ok=True)
        synced.chmod(_BLOB_MODE)
        synced.replace(place)
        sync_folder(place.parent)

    def add_new(self, chunks: Iterable[bytes]) -> Blob:
        """Add a content in pieces, with any digest.

        Exceptions from iterating over ``chunks`` pass through; nothing is stored then.
        """
        aside = self.tmp / f"{tagged_name()}.blob"
        sha, size = hashlib.sha256(), 0
        try:
            with disk_guard(self.root), self._usable(), aside.open("xb") as sink:
                for chunk in chunks:
                    sha.update(chunk)
                    sink.write(chunk)
                    size += len(chunk)
                sink.flush()
                if not self._whole(sha.hexdigest(), size):
                    os.fsync(sink.fileno())
                    self._publish(aside, sha.hexdigest())
            return Blob(sha.hexdigest(), size)
        finally:
            aside.unlink(missing_ok=True)

    def add_bytes(self, data: bytes) -> str:
        """Add ``data``; return its digest."""
        digest = sha256_bytes(data)
        with disk_guard(self.root), self._usable():
            if not self._whole(digest, len(data)):
                place = self._place(digest)
                place.parent.mkdir(exist_ok=True)
                write_atomic(place, data, _BLOB_MODE)
        return digest

    def add_tree(self, folder: Path, move: bool = True) -> dict[str, Blob]:
        """Add every file below ``folder``; return relative posix path to content, sorted.

        Modes, times and empty folders are not kept. With ``move`` the files are removed from
        ``folder``, but its folders stay.

        Raises:
            StoreError: there is a symbolic link or another thing that is not a plain file or
                folder; nothing was added then.
        """
        with self._usable():
            names = _files_below(folder)
        found = {}
        for name in names:
            path = folder / name
            with self._usable():
                size = path.lstat().st_size
            found[name] = Blob(self.add_file(path, move=move), size)
        return found

    def materialize(self, files: Mapping[str, Blob | str], dest: Path, *, link: bool) -> None:
        """Write contents under names into the folder ``dest`` (created if missing).

        Args:
            files: relative posix path to content or digest.
            dest: a private folder (a scratch); a name that exists there already is an error.
            link: hard-link to the store where possible, 0444 and *shared* with it, for readers
                that cannot write; otherwise copies, 0644.

        Raises:
            StoreError: a content is missing or has lost bytes, a name leads out of ``dest`` or
                exists already.
        """
        with disk_guard(dest), self._usable():
            dest.mkdir(parents=True, exist_ok=True)
            for name, what in files.items():
                target = dest / safe_name(name)
                source = self.path(what if isinstance(what, str) else what.sha256)
                if isinstance(what, Blob) and source.stat().st_size != what.size:
                    raise StoreError(
                        f"The store's content {what.sha256} has lost bytes.",
                        "Run `kiln clean`, then build again.",
                    )
                if os.path.lexists(target):
                    raise StoreError(f"{target} exists already.", "Use an empty folder.")
                target.parent.mkdir(parents=True, exist_ok=True)
                if link:
                    try:
                        target.hardlink_to(source)
                        continue
                    except OSError as error:
                        if error.errno not in _NO_LINK:
                            raise
                copy_file(source, target)

    def discard(self, digest: str) -> None:
        """Remove a content (for instance one that :meth:`verify` found damaged)."""
        with self._usable():
            self._place(digest).unlink(missing_ok=True)

    def verify(self) -> list[str]:
        """Read every blob again; return the digests that do not match, sorted."""

        def damaged(path: Path) -> bool:
            try:
                return sha256_file(path) != path.name
            except FileNotFoundError:
                return False  # discarded meanwhile
            except OSError:
                return True

        with self._usable():
            paths = sorted(p for p in self._blobs.glob("??/*") if not p.name.startswith("."))
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            flags = pool.map(damaged, paths)
            return [path.name for path, bad in zip(paths, flags, strict=True) if bad]

    # -- results and refs -----------------------------------------------------------------------

    def put_result(self, result: StageResult) -> None:
        """Record a stage's result; its contents must be in the store already.

        Raises:
            StoreError: a content is missing, or the key or a name is malformed.
        """
        for name, blob in result.files.items():
            safe_name(name)
            if not self._whole(blob.sha256, blob.size):
                raise StoreError(
                    f"The result of stage {result.stage!r} names {name!r}, which the store lacks.",
                    "Run the build again.",
                )
        self.remember(result)

    def remember(self, result: StageResult) -> None:
        """Record a stage's result, whether its contents are here or not."""
        self._write_json(self._result_place(result.key), manifest_of(result))

    def keys(self) -> list[str]:
        """Return the keys of all recorded results, sorted."""
        return sorted(place.stem for place in self._results.glob(f"{'[0-9a-f]' * 64}.json"))

    def get_result(self, key: str) -> StageResult | None:
        """Return the stage result of ``key``; None if any of it is missing or damaged.

        Sizes are compared, contents are not read (:meth:`sound` and :meth:`verify` do).
        """
        result = self.remembered(key)
        return result if result is not None and self.holds(result) else None

    def holds(self, result: StageResult) -> bool:
        """Whether all files of a result are here, by size."""
        return all(self._whole(blob.sha256, blob.size) for blob in result.files.values())

    def remembered(self, key: str) -> StageResult | None:
        """Return the recorded result of ``key``, even if files of it are lost.

        A manifest that cannot be understood is removed.
        """
        place = self._result_place(key)
        manifest = self._read_json(place)
        if manifest is None:
            return None
        result = parse_result(manifest, key)
        if result is None:
            with self._usable():
                place.unlink(missing_ok=True)
        return result

    def _result_place(self, key: str) -> Path:
        if not _HEX64.fullmatch(key):
            raise StoreError(f"{key!r} is not a stage key.", "64 lower-case hex digits are needed.")
        return self._results / f"{key}.json"

    def set_ref(self, kind: str, name: str, data: dict[str, Any]) -> None:
        """Record plain data under a kind and a name, replacing earlier data."""
        self._write_json(self._ref_place(kind, name), data)

    def get_ref(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return the data of :meth:`set_ref`; None if there is none, or none readable."""
        return self._read_json(self._ref_place(kind, name))

    def _ref_place(self, kind: str, name: str) -> Path:
        return self._refs / _file_name(kind) / f"{_file_name(name)}.json"

    def _write_json(self, place: Path, data: dict[str, Any]) -> None:
        with disk_guard(self.root), self._usable():
            place.parent.mkdir(exist_ok=True)
            write_atomic(place, canonical_json(data) + b"\n")

    def _read_json(self, place: Path) -> dict[str, Any] | None:
        with self._usable():
            try:
                data = json.loads(place.read_bytes())
            except FileNotFoundError:
                return None
            except (ValueError, RecursionError):
                data = None
            if not isinstance(data, dict):
                place.unlink(missing_ok=True)
                return None
            return data

    # -- living with other processes ------------------------------------------------------------

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Create a private empty folder on the store's file system; removed at the end."""
        with disk_guard(self.root), self._usable():
            folder = self.tmp / tagged_name()
            folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            remove(folder)

    def sweep(self) -> int:
        """Remove leftovers of dead processes in the store; return how many.

        Things in use by living processes are not touched; partial downloads are kept to be resumed.
        What cannot be removed now is left for the next sweep.
        """
        removed = 0
        with self._usable():
            for path in list(self.tmp.iterdir()):
                if is_abandoned(path):
                    # A process that a killed driver started may still write there: remove it later.
                    with contextlib.suppress(StoreError):
                        remove(path)
                        removed += 1
            folders = [self._results, self.downloads, *self._blobs.iterdir(), *self._refs.iterdir()]
            for folder in folders:
                if folder.is_dir():
                    removed += sweep_asides(folder)
        return removed

    @contextlib.contextmanager
    def lock(
        self,
        name: str,
        *,
        timeout: float | None = None,
        while_waiting: Callable[[], object] | None = None,
    ) -> Iterator[None]:
        """Hold the lock ``name`` against every other thread and process using this store.

        The kernel releases it when the holder dies. Not reentrant.

        Args:
            name: anything.
            timeout: seconds to wait; None waits forever.
            while_waiting: called about twice a second while waiting; an exception from it ends
                the waiting.

        Raises:
            StoreError: another process still held it after ``timeout``.
        """
        with self._usable():
            lock = filelock.FileLock(self._locks / f"{_file_name(name)}.lock")
            until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = math.inf if until is None else max(0.0, until - time.monotonic())
            try:
                with self._usable():
                    lock.acquire(timeout=min(0.5, left))
                break
            except filelock.Timeout as error:
                if left <= 0.5:
                    raise StoreError(
                        f"Another kiln has been holding {name!r} for more than {timeout:g} s.",
                        "Wait for it to finish, or stop it.",
                    ) from error
            if while_waiting is not None:
                while_waiting()
        try:
            yield
        finally:
            lock.release()

    def usage(self) -> int:
        """Sum up the bytes of all files in the store (a file with several names counts once)."""
        seen: dict[tuple[int, int], int] = {}
        pending = [self.root]
        while pending:  # (files kept with --keep-failed may be nested deeper than recursion allows)
            with contextlib.suppress(OSError), os.scandir(pending.pop()) as scan:
                for entry in scan:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                        continue
                    with contextlib.suppress(OSError):  # gone meanwhile
                        about = entry.stat(follow_symlinks=False)
                        seen[about.st_dev, about.st_ino] = about.st_size
        return sum(seen.values())


def _file_name(name: str) -> str:
    """Turn ``name`` into one plain file name: quoted, or a digest where that is too long."""
    quoted = quote(name, safe="")
    return (
        quoted
        if 0 < len(quoted) <= 150 and not quoted.startswith(".")
        else (sha256_bytes(name.encode("utf-8", "surrogatepass")))
    )


def _files_below(top: Path) -> list[str]:
    found: list[str] = []
    pending = [(top, "")]
    while pending:
        folder, prefix = pending.pop()
        with os.scandir(folder) as scan:
            for entry in scan:
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), f"{name}/"))
                elif entry.is_file(follow_symlinks=False):
                    found.append(name)
                else:
                    raise StoreError(
                        f"{entry.path} is neither a plain file nor a folder.",
                        "Only plain files can be stored.",
                    )
    return sorted(found)
