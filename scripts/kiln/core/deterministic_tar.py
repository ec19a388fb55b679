"""Write tars whose bytes depend on names, contents and executable bits only."""

from __future__ import annotations

import io
import itertools
import os
import stat
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kiln.core.errors import ArchiveError


@dataclass(frozen=True)
class TarEntry:
    """One entry for :func:`deterministic_tar`.

    Args:
        name: relative posix path in the archive.
        source: a file's path or bytes; None makes a folder.
        executable: mode 0755 instead of 0644 (folders are always 0755).
        link: when not None, a symbolic link with this target (``source`` must be None).
    """

    name: str
    source: Path | bytes | None = None
    executable: bool = False
    link: str | None = None


def deterministic_tar(
    out: IO[bytes], source: Path | Iterable[TarEntry], *, mtime: int, prefix: str = ""
) -> None:
    """Write an uncompressed tar whose bytes depend on names, contents and executable bits only.

    GNU format, entries sorted by name, uid and gid 0 without names, modes 0644/0755 (links
    0777), one mtime for all. The bytes are equal from Python 3.9 to 3.13.

    Args:
        out: where to write, strictly forward (a socket works).
        source: a folder (without the folder itself; links stay links), or entries.
        mtime: seconds since the epoch for every entry.
        prefix: put before every name, for instance ``"stages/"``.

    Raises:
        ArchiveError: two entries have one name, the folder holds something other than files,
            folders and links, or a file's size changes while it is read.
        OSError: a file cannot be read, or ``out`` cannot be written.
    """
    entries = _folder_entries(source, "") if isinstance(source, Path) else list(source)
    entries.sort(key=lambda entry: entry.name)
    for one, other in itertools.pairwise(entries):
        if one.name == other.name:
            raise ArchiveError(f"Two entries are named {one.name!r}.", "Rename one.")
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for entry in entries:
            _add(tar, entry, prefix + entry.name, mtime)


def _add(tar: tarfile.TarFile, entry: TarEntry, name: str, mtime: int) -> None:
    info = tarfile.TarInfo(name)
    info.mtime = mtime
    if entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        tar.addfile(info)
        return
    if entry.source is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
        return
    info.mode = 0o755 if entry.executable else 0o644
    if isinstance(entry.source, bytes):
        info.size = len(entry.source)
        tar.addfile(info, io.BytesIO(entry.source))
        return
    with entry.source.open("rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        try:
            tar.addfile(info, file)
        except OSError as error:
            if error.errno is None:  # tarfile's own "unexpected end of data"
                raise ArchiveError(
                    f"{entry.source} changed while it was read.", "Run again."
                ) from error
            raise


def _folder_entries(folder: Path, prefix: str) -> list[TarEntry]:
    found: list[TarEntry] = []
    with os.scandir(folder) as scan:
        for item in scan:
            name, path = f"{prefix}{item.name}", Path(item.path)
            mode = item.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                found.append(TarEntry(name, link=str(path.readlink())))
            elif stat.S_ISDIR(mode):
                found.append(TarEntry(name))
                found += _folder_entries(path, f"{name}/")
            elif stat.S_ISREG(mode):
                found.append(TarEntry(name, path, executable=bool(mode & stat.S_IXUSR)))
            else:
                raise ArchiveError(f"{path} is neither file, folder nor link.", "Remove it.")
    return found
