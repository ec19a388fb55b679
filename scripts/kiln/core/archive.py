"""Unpacking archives nobody vouches for, and writing tars that come out the same every time."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import itertools
import lzma
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Literal, Protocol, cast

from kiln.core.errors import ArchiveError, StoreError
from kiln.core.files import aside_of, disk_guard, remove

MAX_BYTES = 8 << 30
"""Default limit of :func:`unpack`: about ten times the largest archive of the TF2 zoo."""

MAX_ENTRIES = 100_000
"""More names than any model archive has, few enough to unpack in seconds."""

_CHUNK = 1 << 20
_MAX_HEADER = 1 << 20  # bytes tarfile may read into memory for one entry's (extended) header
_BLOCK = tarfile.BLOCKSIZE

_Kind = Literal["file", "folder", "symlink", "hardlink"]


def unpack(
    archive: Path,
    dest: Path,
    *,
    root: str | None = None,
    max_bytes: int = MAX_BYTES,
    max_entries: int = MAX_ENTRIES,
    refuse_litter: bool = False,
) -> None:
    """Unpack a ``.tar``, ``.tar.gz`` or ``.zip`` (told by content, not by name) into ``dest``.

    Everything is written aside and appears in one rename, or not at all. Files come out 0644 or
    0755 and folders 0755, owned by us, whatever the archive says. AppleDouble files (``._x``,
    ``__MACOSX``) and ``PaxHeaders`` folders are left out. Links are made only when they end at
    something inside the archive.

    Args:
        archive: the file.
        dest: the folder to make; it must be missing or empty.
        root: a top folder that must be there (it stays: ``dest / root`` exists afterwards).
        max_bytes: unpacked bytes beyond which the archive counts as a bomb.
        max_entries: number of entries beyond which it does.
        refuse_litter: refuse what would be left out, for archives in which every entry counts.

    Raises:
        ArchiveError: not an archive of a known kind; truncated or corrupt; too large; ``root``
            missing; or an entry that leaves the folder, is absolute, appears twice, is a device
            or pipe, or is encrypted. The message names the entry.
        StoreError: ``dest`` is not empty, or the archive cannot be read.
        DiskFullError: no space left.
    """
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise StoreError(f"{dest} is not an empty folder.", "Move it elsewhere.")
    aside = aside_of(dest)
    try:
        with disk_guard(dest):
            aside.mkdir(parents=True)
            tree = _Tree(archive, aside, max_bytes, max_entries, refuse_litter)
            with _opened(archive) as file:
                reader = _reader_for(archive, file)
                reader(archive, file, tree)
            tree.finish(root)
            aside.rename(dest)
    except OSError as error:
        remove(aside)
        if error.errno in {errno.ENAMETOOLONG, errno.EILSEQ}:
            raise _bad(archive, "it holds a name this file system cannot hold") from error
        raise StoreError(
            f"Cannot unpack {archive} to {dest}: {error.strerror or error}.",
            "Check the folder's permissions.",
        ) from error
    except BaseException:
        remove(aside)
        raise


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[BinaryIO]:
    try:
        file = archive.open("rb")
    except OSError as error:
        raise StoreError(
            f"Cannot read {archive}: {error.strerror}.", "Check the path and its permissions."
        ) from error
    with file:
        yield file


def _bad(archive: Path, why: str) -> ArchiveError:
    return ArchiveError(
        f"{archive.name}: {why}.", "Get the archive again, from the place its publisher names."
    )


# -- what is written ----------------------------------------------------------------------------


@dataclass
class _Tree:
    """The folder being filled; every rule about entries lives here, for tar and zip alike."""

    archive: Path
    base: Path
    max_bytes: int
    max_entries: int
    refuse_litter: bool = False
    written: int = 0
    entries: int = 0
    seen: dict[str, _Kind] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)

    def refuse(self, name: str, why: str) -> ArchiveError:
        return _bad(self.archive, f"the entry {name!r} {why}")

    def place(self, raw: str) -> str | None:
        """The entry's relative path, "" for the top itself, None for one to be left out."""
        self.entries += 1
        if self.entries > self.max_entries:
            raise _bad(self.archive, f"more than {self.max_entries:,} entries")
        if raw.startswith("/"):
            raise self.refuse(raw, "has an absolute path")
        parts = [part for part in raw.split("/") if part not in {"", "."}]
        if ".." in parts:
            raise self.refuse(raw, "leads out of the archive's folder ('..')")
        if any(not part.isprintable() or "\\" in part for part in parts):
            raise self.refuse(raw, "has a character in its name that no file should have")
        if any(_is_litter(part) for part in parts):
            if self.refuse_litter:
                raise self.refuse(raw, "is a file system's note and no part of a release")
            return None
        path = "/".join(parts)
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            kind = self.seen.setdefault(above, "folder")
            if kind != "folder":
                raise self.refuse(raw, f"lies below {above!r}, which is not a folder")
        return path

    def claim(self, raw: str, path: str, kind: _Kind) -> Path:
        before = self.seen.get(path)
        if before is not None and not (kind == before == "folder"):
            raise self.refuse(raw, "appears twice")
        self.seen[path] = kind
        target = self.base / path
        if target != self.base:
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def folder(self, raw: str) -> None:
        path = self.place(raw)
        if path:
            self.claim(raw, path, "folder").mkdir(exist_ok=True)

    def file(self, raw: str, content: IO[bytes], size: int | None, executable: bool) -> None:
        path = self.place(raw)
        if path == "":
            raise self.refuse(raw, "is a file without a name")
        with contextlib.ExitStack() as stack:
            sink: BinaryIO | None = None
            if path is not None:
                sink = stack.enter_context(self.claim(raw, path, "file").open("xb"))
            done = 0
            while chunk := content.read(_CHUNK):
                done += len(chunk)
                self.count(len(chunk), raw)
                if sink is not None:
                    sink.write(chunk)
            if size is not None and done != size:
                raise self.refuse(raw, f"is cut short ({done:,} of {size:,} bytes)")
            if sink is not None:
                os.fchmod(sink.fileno(), 0o755 if executable else 0o644)

    def count(self, size: int, raw: str) -> None:
        self.written += size
        if self.written > self.max_bytes:
            raise self.refuse(
                raw, f"brings the unpacked size above the limit of {self.max_bytes:,} bytes"
            )

    def _link_place(self, raw: str) -> str | None:
        path = self.place(raw)
        if path == "":
            raise self.refuse(raw, "is a link without a name")
        return path

    def symlink(self, raw: str, target: str) -> None:
        path = self._link_place(raw)
        if path is None:
            return
        if not target or target.startswith("/") or "\0" in target:
            raise self.refuse(raw, f"is a link to {target!r}, outside the archive")
        ends = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if ends == ".." or ends.startswith("../"):
            raise self.refuse(raw, f"is a link to {target!r}, outside the archive")
        self.claim(raw, path, "symlink")
        # Made at the very end: as long as there are no links, nothing can be written through one.
        self.links.append((raw, target))

    def hardlink(self, raw: str, target: str) -> None:
        path = self._link_place(raw)
        if path is None:
            return
        source = posixpath.normpath(target)
        if target.startswith("/") or source == ".." or source.startswith("../"):
            raise self.refuse(raw, f"is a link to {target!r}, outside the archive")
        if self.seen.get(source) not in {"file", "hardlink"}:
            raise self.refuse(raw, f"is a link to {target!r}, which is no earlier file")
        size = (self.base / source).stat().st_size
        self.count(size, raw)
        # A copy: one inode under two names surprises whoever changes one of them.
        place = self.claim(raw, path, "hardlink")
        with place.open("xb") as sink, (self.base / source).open("rb") as content:
            shutil.copyfileobj(content, sink, _CHUNK)
            os.fchmod(sink.fileno(), (self.base / source).stat().st_mode & 0o777)

    def finish(self, root: str | None) -> None:
        """Make the links, check where they really end, and look for ``root``."""
        if not self.seen:
            raise _bad(self.archive, "the archive holds nothing")
        places = []
        for raw, target in self.links:
            place = self.base / "/".join(p for p in raw.split("/") if p not in {"", "."})
            place.symlink_to(target)
            places.append((raw, target, place))
        base = os.path.realpath(self.base)
        for raw, target, place in places:
            # A link through another link can end elsewhere than its text suggests.
            try:
                end = os.path.realpath(place, strict=True)
            except OSError:
                raise self.refuse(raw, f"is a link to {target!r}, which is not there") from None
            if end != base and not end.startswith(base + os.sep):
                raise self.refuse(raw, f"is a link to {target!r}, outside the archive")
        if root is not None and self.seen.get(root) != "folder":
            tops = sorted({path.split("/")[0] for path in self.seen})
            shown = ", ".join(map(repr, tops[:8])) + (", …" if len(tops) > 8 else "")
            raise ArchiveError(
                f"{self.archive.name}: no top folder {root!r}; found {shown}.",
                "This is another archive than expected, or the recipe names the wrong folder.",
            )
        for path in (self.base, *(self.base / p for p, k in self.seen.items() if k == "folder")):
            path.chmod(0o755)


def _is_litter(part: str) -> bool:
    return part.startswith(("._", "PaxHeaders.")) or part in {"PaxHeaders", "__MACOSX"}


# -- what is read -------------------------------------------------------------------------------

_Reader = Callable[[Path, BinaryIO, _Tree], None]


def _reader_for(archive: Path, file: BinaryIO) -> _Reader:
    head = file.read(_BLOCK)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return _read_tar_gz
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _read_zip
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return _read_tar
    if head.startswith(b"BZh"):
        why = "this is a bzip2 file"
    elif head.startswith(b"\xfd7zXZ"):
        why = "this is an xz file"
    elif head.lstrip()[:1] == b"<":
        why = "this is a web page (perhaps an error or log-in page), not an archive"
    elif not head:
        why = "the file is empty"
    else:
        why = "this is not an archive"
    raise ArchiveError(
        f"{archive.name}: {why}.", "A .tar.gz, .tar or .zip is needed; check where it came from."
    )


def _is_old_tar(head: bytes) -> bool:
    """Whether a block is a tar header from before ``ustar``: its checksum holds."""
    if len(head) < _BLOCK or not any(head):
        return False
    try:
        stored = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return stored == sum(head[:148]) + 8 * ord(" ") + sum(head[156:_BLOCK])


def _read_tar_gz(archive: Path, file: BinaryIO, tree: _Tree) -> None:
    with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
        _read_tar(archive, unzipped, tree)


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _Metered:
    """What tarfile reads from: counts, limits, and remembers the last bytes it gave out."""

    def __init__(self, source: _Readable, tree: _Tree) -> None:
        self._source = source
        self._tree = tree
        self._tail = b""
        self.total = 0
        self.header_limit: int | None = None
        # Entries cost a header and padding beside their content.
        self._limit = tree.max_bytes + tree.max_entries * 4 * _BLOCK

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self.total += len(data)
        self._tail = (self._tail + data)[-4 * tarfile.RECORDSIZE :]
        if self.total > self._limit:
            raise _bad(
                self._tree.archive,
                f"it unpacks to more than the limit of {self._tree.max_bytes:,} bytes",
            )
        if self.header_limit is not None and self.total > self.header_limit:
            raise _bad(self._tree.archive, "an entry's header is unreasonably long")
        return data

    def block_at(self, offset: int) -> bytes:
        start = offset - (self.total - len(self._tail))
        return self._tail[start : start + _BLOCK] if start >= 0 else b""


_CORRUPT = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
)

# What a seek to a place that no file has ends in: the archive says where to look.
_IMPOSSIBLE_PLACE = {errno.EINVAL, errno.EOVERFLOW}


@contextlib.contextmanager
def _corruption(archive: Path, where: str) -> Iterator[None]:
    """Turn whatever a parser throws at a bad archive into one message."""
    try:
        yield
    except (*_CORRUPT, OSError) as error:
        odd_place = isinstance(error, OSError) and error.errno in _IMPOSSIBLE_PLACE
        if isinstance(error, OSError) and error.errno is not None and not odd_place:
            raise  # the machine's trouble (a full disk), not the archive's
        cut = isinstance(error, EOFError) or "unexpected end" in str(error)
        said = "it names an impossible place" if odd_place else error or type(error).__name__
        why = "it is truncated" if cut else f"it is corrupt ({said})"
        raise _bad(archive, f"{why}, {where}") from error


def _read_tar(archive: Path, file: _Readable, tree: _Tree) -> None:
    source = _Metered(file, tree)
    last = ""
    with _corruption(archive, "at its start"):
        source.header_limit = _MAX_HEADER
        # Never closed: it owns nothing, and the file is ours.
        tar = tarfile.open(  # noqa: SIM115
            fileobj=cast(IO[bytes], source), mode="r|", errorlevel=2
        )
    while True:
        with _corruption(archive, f"after the entry {last!r}" if last else "at its start"):
            source.header_limit = source.total + _MAX_HEADER
            member = tar.next()
            source.header_limit = None
        if member is None:
            break
        last = member.name
        with _corruption(archive, f"in the entry {last!r}"):
            _take_tar_member(tar, member, tree)
    # tarfile stops without a word at a damaged header or a missing end: look for the zero block
    # that ends a tar, then read on to the end, where gzip keeps its checksum.
    ending = source.block_at(tar.offset)
    with _corruption(archive, f"after the entry {last!r}"):
        while source.read(_CHUNK):
            pass
    if len(ending) < _BLOCK:
        raise _bad(archive, f"it is truncated, after the entry {last!r}")
    if any(ending):
        raise _bad(archive, f"it is corrupt (not a header), after the entry {last!r}")


def _take_tar_member(tar: tarfile.TarFile, member: tarfile.TarInfo, tree: _Tree) -> None:
    if member.isdir():
        tree.folder(member.name)
    elif member.isreg():
        if member.size > tree.max_bytes:
            tree.count(member.size, member.name)
        content = tar.extractfile(member)
        if content is None:
            raise tree.refuse(member.name, "cannot be read")
        with content:
            tree.file(member.name, content, member.size, bool(member.mode & stat.S_IXUSR))
    elif member.issym():
        tree.symlink(member.name, member.linkname)
    elif member.islnk():
        tree.hardlink(member.name, member.linkname)
    elif member.isdev():
        what = "a named pipe" if member.isfifo() else "a device"
        raise tree.refuse(member.name, f"is {what}")
    else:
        raise tree.refuse(member.name, f"is of an unknown type ({member.type!r})")


def _read_zip(archive: Path, file: BinaryIO, tree: _Tree) -> None:
    with _corruption(archive, "at its end"):
        bag = zipfile.ZipFile(file)
    for info in bag.infolist():
        if info.flag_bits & 0x1:
            raise tree.refuse(info.filename, "is encrypted")
        mode = info.external_attr >> 16
        kind = stat.S_IFMT(mode)
        with _corruption(archive, f"in the entry {info.filename!r}"):
            if info.is_dir():
                tree.folder(info.filename)
            elif kind == stat.S_IFLNK:
                if info.file_size > 4096:  # PATH_MAX
                    raise tree.refuse(info.filename, "is a link with an impossible target")
                tree.symlink(info.filename, os.fsdecode(bag.read(info)))
            elif kind not in {0, stat.S_IFREG}:
                raise tree.refuse(info.filename, "is neither a file nor a folder")
            else:
                with bag.open(info) as content:
                    tree.file(info.filename, content, info.file_size, bool(mode & stat.S_IXUSR))


# -- writing ------------------------------------------------------------------------------------


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
        out: where to write, strictly forward (a socket will do).
        source: a folder (taken without the folder itself; links stay links), or entries.
        mtime: seconds since the epoch for every entry.
        prefix: put before every name, for instance ``"stages/"``.

    Raises:
        ArchiveError: two entries with one name, or something in the folder that is neither
            file, folder nor link, or a file that changes its size while it is read.
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
