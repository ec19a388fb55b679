"""Read the files that a container wrote, by descriptor: nothing leads out of its folder.

The stage's code may be untrusted, and its container may still run while files are read. So no path
below the folder is followed by name: each folder is opened from its parent's descriptor, links are
not followed, and an opened file is checked before it is read. Contents are hashed while they are
copied, so the stored bytes are the checked ones, even if the file changes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kiln.core.errors import DiskFullError, StageOutputError
from kiln.core.plain_text import plain, shortened
from kiln.running.limits import Limits

#: Most nested folders, and bytes of a path. Our deepest, a SavedModel, has three.
MAX_DEPTH = 16
MAX_PATH = 1024

#: Most bytes of a stage's ``result.json``; the largest of ours has 60 kB.
MAX_REPORT = 4 << 20

#: The share of the free disk space that a container must leave: others write there, too.
_RESERVE = 0.05

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a FIFO for reading would block until there is a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class TakenFile:
    """A stage's file, open at ``fd`` during its iteration; ``name`` is its relative path."""

    name: str
    fd: int


class StageOutput:
    """The folder ``/out`` of one container, seen from outside.

    Args:
        folder: the empty folder, before anybody else can write there.
        owner: the user id that the container's files have on this side.
        limits: how much may be in it.
    """

    def __init__(self, folder: Path, owner: int, limits: Limits) -> None:
        self._folder = folder
        self._owner = owner
        self._limits = limits
        self._fd = os.open(folder, _FOLDER)
        self._free = _free_bytes(self._fd) * (1 - _RESERVE)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._fd)

    def report(self, step_id: str) -> bytes:
        """Read a finished step's ``result.json``.

        Raises:
            StageOutputError: it is missing or must not be read.
        """
        with (
            self._opened(self._fd, step_id, step_id, _FOLDER) as folder,
            self._opened(folder, "result.json", f"{step_id}/result.json", _FILE) as fd,
        ):
            self._check_file(fd, f"{step_id}/result.json")
            data = bytearray()
            for chunk in chunks_of(fd, MAX_REPORT, f"{step_id}/result.json"):
                data += chunk
            return bytes(data)

    def files(self, step_id: str) -> Iterator[TakenFile]:
        """Yield a finished step's files, in no order; each is open until the next one.

        Raises:
            StageOutputError: something is not a plain file or folder of the stage's user, or there
                is more than allowed.
        """
        with (
            self._opened(self._fd, step_id, step_id, _FOLDER) as folder,
            self._opened(folder, "files", f"{step_id}/files", _FOLDER) as fd,
        ):
            yield from self._walk(fd, step_id, "", itertools.count(1))

    def _walk(
        self, folder: int, step_id: str, prefix: str, seen: Iterator[int]
    ) -> Iterator[TakenFile]:
        for name in _entries(folder):
            if next(seen) > self._limits.output_files:
                raise _too_many(step_id, self._limits)
            path = prefix + name
            where = f"{step_id}/files/{path}"
            _check_name(name, where)
            if len(os.fsencode(path)) > MAX_PATH:
                raise refused(where, f"its path is longer than {MAX_PATH} bytes")
            kind = stat.S_IFMT(self._about(folder, name, where).st_mode)
            if kind == stat.S_IFDIR:
                if prefix.count("/") >= MAX_DEPTH:
                    raise refused(where, f"it lies more than {MAX_DEPTH} folders deep")
                with self._opened(folder, name, where, _FOLDER) as below:
                    yield from self._walk(below, step_id, f"{path}/", seen)
            elif kind == stat.S_IFREG:
                with self._opened(folder, name, where, _FILE) as fd:
                    self._check_file(fd, where)
                    yield TakenFile(path, fd)
            else:
                raise refused(where, "it is neither a plain file nor a folder")

    @staticmethod
    def _about(folder: int, name: str, where: str) -> os.stat_result:
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            raise refused(where, str(error.strerror)) from error

    @contextlib.contextmanager
    def _opened(self, folder: int, name: str, where: str, flags: int) -> Iterator[int]:
        try:
            fd = os.open(name, flags, dir_fd=folder)
        except OSError as error:
            raise refused(where, f"it cannot be opened ({error.strerror})") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _check_file(self, fd: int, where: str) -> None:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise refused(where, "it is not a plain file")
        if about.st_uid != self._owner:
            raise refused(where, f"it belongs to user {about.st_uid}, not to the stage's")
        if about.st_nlink != 1:
            raise refused(where, f"it has {about.st_nlink} names")

    def check_use(self) -> None:
        """Check how much the container has written so far; called repeatedly while it runs.

        Files that it removed but keeps open only show in the free space.

        Raises:
            StageOutputError: it wrote more bytes or files than allowed.
            DiskFullError: the disk is nearly full.
        """
        used, count = self._use()
        if used >= self._limits.output:
            raise StageOutputError(
                f"It wrote the {self._limits.output >> 20:,} MiB that are its limit.",
                "This is a bug in the stage's code; the stage's output is not used.",
            )
        if count > self._limits.output_files:
            raise _too_many("it", self._limits)
        if used > self._free or _free_bytes(self._fd) < self._free * _RESERVE:
            raise DiskFullError(
                f"A stage has written {used >> 20:,} MiB, and {self._folder} is nearly full.",
                "Free some space, or set KILN_STORE to a folder on a larger disk; then run again.",
            )

    def _use(self) -> tuple[int, int]:
        """Sum up bytes on disk and number of entries, until a limit is exceeded."""
        used = count = 0
        pending = [(os.dup(self._fd), 0)]
        try:
            while pending:
                fd, depth = pending.pop()
                try:
                    for name in _entries(fd):
                        count += 1
                        if count > self._limits.output_files or used > self._limits.output:
                            return used, count
                        with contextlib.suppress(OSError):  # removed meanwhile, or not readable
                            about = os.stat(name, dir_fd=fd, follow_symlinks=False)
                            used += about.st_blocks * 512
                            # Deeper folders are refused when files are taken.
                            if stat.S_ISDIR(about.st_mode) and depth < MAX_DEPTH + 2:
                                pending.append((os.open(name, _FOLDER, dir_fd=fd), depth + 1))
                finally:
                    os.close(fd)
        finally:
            for fd, _ in pending:
                os.close(fd)
        return used, count


def chunks_of(fd: int, limit: int, where: str) -> Iterator[bytes]:
    """Yield the bytes of an open file; refuse it as soon as they exceed ``limit``."""
    left = limit
    while chunk := os.read(fd, 1 << 20):
        left -= len(chunk)
        if left < 0:
            raise refused(where, f"it is larger than {limit:,} bytes")
        yield chunk


def refused(where: str, why: str) -> StageOutputError:
    """Build the error for something in a stage's output; ``where`` is its path there."""
    return StageOutputError(
        f"{shortened(plain(where), 200)} was not taken: {why}.",
        "This is a bug in the stage's code; the stage's output is not used.",
    )


def _too_many(what: str, limits: Limits) -> StageOutputError:
    return StageOutputError(
        f"{what} left more than {limits.output_files:,} files and folders.",
        "This is a bug in the stage's code; the stage's output is not used.",
    )


def _entries(fd: int) -> Iterator[str]:
    with os.scandir(fd) as scan:
        for entry in scan:
            yield entry.name


def _check_name(name: str, where: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise refused(where, "its name is not UTF-8") from None
    if plain(name) != name or "\\" in name:
        raise refused(where, "its name has an unprintable character")


def _free_bytes(fd: int) -> int:
    about = os.fstatvfs(fd)
    return about.f_bavail * about.f_frsize
