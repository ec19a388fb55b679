"""Unpack untrusted archives."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, Protocol, cast

from kiln.core import git_lfs
from kiln.core.errors import ArchiveError, StoreError
from kiln.core.files import aside_of, disk_guard, remove

MAX_BYTES = 8 << 30
"""Default limit of :func:`unpack`: about ten times the largest archive of the TF2 zoo."""

MAX_ENTRIES = 100_000
"""More names than any model archive has, few enough to unpack in seconds."""

_CHUNK = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER = 128 << 10  # bytes of one tar entry's headers; an honest one has one or two KB
_MAX_GLOBALS = 1000  # global pax headers; an honest archive has one or two
_ZIP_NOTE = 256  # bytes of an entry in a zip's directory, on average at most
_MAX_PATH = 4096  # PATH_MAX of Linux: characters of a name, or of a link's target
_MAX_DEPTH = 100  # folders below one another
_MAX_RUN = 255  # digits in a row in a pax header: as many as a file's name can have

_TYPE_FIELD = slice(156, 157)  # of a tar header
_PAX_TYPES = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
_LONG_NAME_TYPES = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}

_Kind = Literal["file", "folder", "link"]


def unpack(
    archive: Path,
    dest: Path,
    *,
    root: str | None = None,
    max_bytes: int = MAX_BYTES,
    max_entries: int = MAX_ENTRIES,
    refuse_litter: bool = False,
) -> None:
    """Unpack a ``.tar``, ``.tar.gz`` or ``.zip`` (detected by content, not by name) into ``dest``.

    Everything is written aside and appears in one rename, or not at all. Files get mode 0644 or
    0755 and folders 0755, and belong to the current user, whatever the archive says. AppleDouble
    files (``._x``, ``__MACOSX``) and ``PaxHeaders`` folders are left out. Links are made only if
    they end at something inside the archive.

    Args:
        archive: the file.
        dest: the folder to make; it must be missing or empty.
        root: a top folder that must exist (it stays: ``dest / root`` exists afterwards).
        max_bytes: limit on unpacked bytes; an archive beyond it counts as a bomb.
        max_entries: limit on files, folders and links; likewise.
        refuse_litter: refuse what would be left out, for archives in which every entry counts.

    Raises:
        ArchiveError: not an archive of a known kind; truncated or corrupt; too large; ``root``
            missing; or an entry that leaves the folder, is absolute, appears twice (upper and
            lower case count as the same), has a name that is not portable, is a device, a pipe or
            a sparse file, or is encrypted. The message names the entry.
        StoreError: ``dest`` is not empty, or the archive cannot be read.
        DiskFullError: no space left.
    """
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise StoreError(f"{dest} is not an empty folder.", "Move it elsewhere.")
    aside = aside_of(dest)
    try:
        with disk_guard(dest):
            aside.mkdir(parents=True)
            guard = _Guard(archive, aside, max_bytes, max_entries, refuse_litter)
            with _opened(archive) as file, _corruption(guard):
                _reader_for(archive, file)(file, guard)
            guard.finish(root)
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


def _shown(name: str) -> str:
    return repr(name if len(name) <= 200 else f"{name[:100]}…{name[-100:]}")


# -- what may be written ------------------------------------------------------------------------


@dataclass
class _Guard:
    """The rules for entries of tar and zip; none is written before it is admitted."""

    archive: Path
    base: Path
    max_bytes: int
    max_entries: int
    refuse_litter: bool
    where: str = "at its start"
    size: int = 0
    entries: int = 0
    kinds: dict[str, _Kind] = field(default_factory=dict)
    folded: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def refuse(self, raw: str, why: str) -> ArchiveError:
        return ArchiveError(
            f"{self.archive.name}: the entry {_shown(raw)} {why}.",
            "Get the archive again, from the place its publisher names; if it is your own, pack it "
            "again without that.",
        )

    def admit(self, raw: str, kind: _Kind, size: int = 0) -> str | None:
        """Claim an entry's path, and make the folders above it; None for an entry to skip."""
        self.where = f"in the entry {_shown(raw)}"
        self.count(raw, size)
        if raw.startswith("/"):
            raise self.refuse(raw, "has an absolute path")
        if len(raw) > _MAX_PATH:
            raise self.refuse(raw, f"has a name of more than {_MAX_PATH:,} characters")
        parts = [part for part in raw.split("/") if part not in {"", "."}]
        if ".." in parts:
            raise self.refuse(raw, "leads out of the archive's folder ('..')")
        for part in parts:
            if not part.isprintable() or "\\" in part:
                raise self.refuse(raw, "has a character in its name that no file should have")
            if not _is_portable(part):
                raise self.refuse(raw, "has a name that not every system can hold")
        if len(parts) > _MAX_DEPTH:
            raise self.refuse(raw, f"lies more than {_MAX_DEPTH} folders deep")
        if any(_is_litter(part) for part in parts):
            if self.refuse_litter:
                raise self.refuse(raw, "is a file system's note and no part of a release")
            self._count_entries(1)
            return None
        if not parts:
            if kind != "folder":
                raise self.refuse(raw, f"is a {kind} without a name")
            return None
        path = "/".join(parts)
        self._claim(raw, path, kind)
        return path

    def count(self, raw: str, size: int) -> None:
        if size < 0:
            raise self.refuse(raw, f"has an impossible size ({size:,} bytes)")
        self.size += size
        if self.size > self.max_bytes:
            raise self.refuse(
                raw, f"brings the unpacked size above the limit of {self.max_bytes:,} bytes"
            )

    def _count_entries(self, number: int) -> None:
        self.entries += number
        if self.entries > self.max_entries:
            raise _bad(self.archive, f"more than {self.max_entries:,} entries")

    def _claim(self, raw: str, path: str, kind: _Kind) -> None:
        """Record the path, and those of the folders above it that no entry has named."""
        before = self.kinds.get(path)
        if before is not None and not (before == kind == "folder"):
            raise self.refuse(raw, "appears twice")
        fresh = []
        above = path
        while above and above not in self.kinds:
            fresh.append(above)
            above = posixpath.dirname(above)
        if above and self.kinds[above] != "folder":
            raise self.refuse(raw, f"lies below {_shown(above)}, which is not a folder")
        self._count_entries(len(fresh) or 1)
        for name in fresh:
            other = self.folded.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if other != name:
                raise self.refuse(raw, f"cannot be told from {_shown(other)} on every system")
            self.kinds[name] = "folder"
        self.kinds[path] = kind
        if len(fresh) > 1:
            (self.base / path).parent.mkdir(parents=True, exist_ok=True)

    def _inside(self, raw: str, target: str, start: str = "") -> str:
        """Resolve a link's target; refuse one outside of the archive."""
        if len(target) > _MAX_PATH:
            raise self.refuse(raw, "is a link with an impossible target")
        end = posixpath.normpath(posixpath.join(start, target))
        out = end == ".." or end.startswith("../")
        if out or not target or target.startswith("/") or "\0" in target:
            raise self.refuse(raw, f"is a link to {_shown(target)}, outside the archive")
        return end

    def symlink(self, raw: str, target: str) -> None:
        path = self.admit(raw, "link")
        if path is not None:
            self._inside(raw, target, posixpath.dirname(path))
            # Made at the end: while there are no links, nothing can be written through one.
            # tarfile's own filter is not enough: chains of links bypassed it (fixed in Python
            # 3.10.18, 3.11.13, 3.12.11 and 3.13.4).
            self.links[path] = target

    def hardlink(self, raw: str, target: str) -> None:
        path = self.admit(raw, "file")
        if path is None:
            return
        source = self._inside(raw, target)
        if source == path or self.kinds.get(source) != "file":
            raise self.refuse(raw, f"is a link to {_shown(target)}, which is no earlier file")
        self.count(raw, (self.base / source).stat().st_size)
        # A copy: with one inode under two names, changing one file would change the other.
        shutil.copy(self.base / source, self.base / path)

    def finish(self, root: str | None) -> None:
        """Make the links, check where they end, and check that ``root`` exists."""
        if not self.kinds:
            raise _bad(self.archive, "the archive holds nothing")
        for path, target in self.links.items():
            (self.base / path).symlink_to(target)
        base = self.base.resolve()
        for path, target in self.links.items():
            # A link through another link may end outside although its text does not.
            try:
                end = Path(os.path.realpath(self.base / path, strict=True))
            except OSError:
                why = f"is a link to {_shown(target)}, which is not there"
                raise self.refuse(path, why) from None
            if not end.is_relative_to(base):
                raise self.refuse(path, f"is a link to {_shown(target)}, outside the archive")
        if root is not None and self.kinds.get(root) != "folder":
            tops = sorted({path.partition("/")[0] for path in self.kinds})
            shown = ", ".join(map(repr, tops[:8])) + (", …" if len(tops) > 8 else "")
            raise ArchiveError(
                f"{self.archive.name}: no top folder {root!r}; found {shown}.",
                "This is another archive than expected, or the recipe names the wrong folder.",
            )
        folders = [path for path, kind in self.kinds.items() if kind == "folder"]
        for path in ("", *folders):
            (self.base / path).chmod(0o755)


def _is_litter(part: str) -> bool:
    return part.startswith(("._", "PaxHeaders.")) or part in {"PaxHeaders", "__MACOSX"}


_DEVICES = {"con", "prn", "aux", "nul"}.union(
    f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)
)


def _is_portable(part: str) -> bool:
    """Whether Windows can hold a file of that name."""
    stem = part.partition(".")[0].rstrip(" ").casefold()
    return not set(part) & set('<>:"|?*') and part[-1] not in " ." and stem not in _DEVICES


# -- what is read -------------------------------------------------------------------------------

_Reader = Callable[[BinaryIO, _Guard], None]


def _reader_for(archive: Path, file: BinaryIO) -> _Reader:
    head = file.read(_BLOCK)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return _read_tar_gz
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _read_zip
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return _read_tar
    if git_lfs.is_pointer(head):
        raise git_lfs.refusal(ArchiveError, archive.name)
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
    """Whether a block is a tar header older than ``ustar``: its checksum is right."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


_CORRUPT = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
)

# Errors of a seek to an impossible offset, which a bad archive can state.
_IMPOSSIBLE_PLACE = {errno.EINVAL, errno.EOVERFLOW}


@contextlib.contextmanager
def _corruption(guard: _Guard) -> Iterator[None]:
    """Turn a parser's exceptions about a bad archive into an :class:`ArchiveError`."""
    try:
        yield
    except (*_CORRUPT, OSError) as error:
        odd_place = isinstance(error, OSError) and error.errno in _IMPOSSIBLE_PLACE
        if isinstance(error, OSError) and error.errno is not None and not odd_place:
            raise  # a fault of the machine (a full disk), not of the archive
        cut = isinstance(error, EOFError) or "unexpected end" in str(error)
        said = "it names an impossible place" if odd_place else error or type(error).__name__
        why = "it is truncated" if cut else f"it is corrupt ({said})"
        raise _bad(guard.archive, f"{why}, {guard.where}") from error


def _read_tar_gz(file: BinaryIO, guard: _Guard) -> None:
    with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
        _read_tar(unzipped, guard)


class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


class _TarStream:
    """A forward-only stream for tarfile that bounds the size of headers.

    tarfile reads an entry's headers whole, and until Python 3.12.6 in quadratic time
    (CVE-2024-6232).
    """

    def __init__(self, file: _Readable, guard: _Guard) -> None:
        self._file = file
        self._guard = guard
        self._at = 0
        self._header_type = b""
        self.header_end: int | None = _MAX_HEADER
        """The offset where headers must end; None while contents are read."""
        # An entry costs a header and padding beside its content.
        self._spare = _MAX_HEADER + guard.max_entries * 4 * _BLOCK

    def tell(self) -> int:
        return self._at

    def seek(self, place: int, whence: int = 0, /) -> None:
        if place < self._at or whence:
            raise tarfile.StreamError("an entry lies before its header")
        while self._at < place and self._take(min(_CHUNK, place - self._at)):
            pass

    def read(self, size: int, /) -> bytes:
        if self.header_end is None:
            return self._take(size)
        if self._at + size > self.header_end:
            raise _bad(self._guard.archive, "an entry's header is unreasonably long")
        data = self._take(size)
        if self._header_type in _PAX_TYPES:
            _check_records(data)
        # What follows a header of these types is its content, anything else is a header.
        followed = self._header_type in _PAX_TYPES | _LONG_NAME_TYPES
        self._header_type = b"" if followed else data[_TYPE_FIELD]
        return data

    def _take(self, size: int) -> bytes:
        if size < 0:  # from a bad header; read() would read everything
            raise tarfile.ReadError("an impossible size")
        data = self._file.read(size)
        self._at += len(data)
        if self._at > self._guard.size + self._spare:
            raise _bad(
                self._guard.archive,
                f"it unpacks to more than the limit of {self._guard.max_bytes:,} bytes",
            )
        return data


def _check_records(data: bytes) -> None:
    """Check that a pax header is a list of records that each state their length.

    tarfile would take long to detect a bad one.

    Raises:
        ReadError: it is not such a list.
    """
    at = 0
    while at < len(data) and data[at]:
        digits, space, _ = data[at : at + 20].partition(b" ")
        if not space or not digits.isdigit():
            raise tarfile.ReadError("a record without a length")
        end = at + int(digits)
        if b"=" not in data[at:end] or data[end - 1 : end] != b"\n":
            raise tarfile.ReadError("a record of another length than it says")
        at = end
    if any(len(run) > _MAX_RUN for run in re.findall(rb"[0-9]+", data)):
        raise tarfile.ReadError("a number without end")


class _Header(tarfile.TarInfo):
    """A tar header that refuses damage, which tarfile takes for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        if len(buf) < _BLOCK:
            raise EOFError
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):
                raise  # the end
            raise tarfile.ReadError(f"not a header: {error}") from error


def _read_tar(file: _Readable, guard: _Guard) -> None:
    stream = _TarStream(file, guard)
    tar = tarfile.TarFile(fileobj=cast(IO[bytes], stream), tarinfo=_Header, errorlevel=2)
    # A second check of every entry. Python before 3.10.12 and 3.11.4 (such as Debian 12's) has no
    # filter; entries that the guard admits are safe without it.
    tar.extraction_filter = getattr(tarfile, "data_filter", None)
    while (member := tar.next()) is not None:
        cast(Any, tar).members.clear()  # tarfile would keep all headers in memory
        if len(tar.pax_headers) > _MAX_GLOBALS:
            raise _bad(guard.archive, f"more than {_MAX_GLOBALS:,} global headers")
        stream.header_end = None
        name = member.name
        _extract(tar, member, guard)
        guard.where = f"after the entry {_shown(name)}"
        stream.header_end = tar.offset + _MAX_HEADER
    stream.header_end = None
    while stream.read(_CHUNK):
        pass  # up to the end, where gzip keeps its checksum


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, guard: _Guard) -> None:
    name = member.name
    if member.issym():
        guard.symlink(name, member.linkname)
    elif member.islnk():
        guard.hardlink(name, member.linkname)
    elif member.issparse():
        raise guard.refuse(name, "is a sparse file")
    elif member.isfifo():
        raise guard.refuse(name, "is a named pipe")
    elif member.isdev():
        raise guard.refuse(name, "is a device")
    elif member.isdir() or member.isreg():
        size = member.size if member.isreg() else 0
        path = guard.admit(name, "file" if member.isreg() else "folder", size)
        if path is not None:
            member.name = path
            tar.extract(member, guard.base, set_attrs=False)
            if member.isreg():
                _set_mode(guard.base / path, member.mode)
    else:
        raise guard.refuse(name, f"is of an unknown type ({member.type!r})")


class _ZipFileReader(io.BufferedReader):
    """A zip file that limits the size of the directory to what the permitted entries need."""

    most = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise zipfile.BadZipFile("its directory is unreasonably long")
        return super().read(size)


def _read_zip(file: BinaryIO, guard: _Guard) -> None:
    with _ZipFileReader(io.FileIO(file.fileno(), closefd=False)) as bounded:
        bounded.most = _CHUNK + guard.max_entries * _ZIP_NOTE
        guard.where = "at its end"
        with zipfile.ZipFile(bounded) as bag:
            for info in bag.infolist():
                _extract_from_zip(bag, info, guard)


def _extract_from_zip(bag: zipfile.ZipFile, info: zipfile.ZipInfo, guard: _Guard) -> None:
    name = info.orig_filename  # zipfile cuts `filename` at a zero byte
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if info.flag_bits & 0x1:
        raise guard.refuse(name, "is encrypted")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # zipfile unpacks other methods without a limit: a few KB can fill the memory.
        raise guard.refuse(name, "is packed by another method than deflate")
    if info.is_dir():
        path = guard.admit(name, "folder")
        if path is not None:
            (guard.base / path).mkdir(exist_ok=True)
    elif kind == stat.S_IFLNK:
        if info.file_size > _MAX_PATH:
            raise guard.refuse(name, "is a link with an impossible target")
        guard.symlink(name, os.fsdecode(bag.read(info)))
    elif kind not in {0, stat.S_IFREG}:
        raise guard.refuse(name, "is neither a file nor a folder")
    else:
        path = guard.admit(name, "file", info.file_size)
        if path is not None:
            place = guard.base / path
            with bag.open(info) as content, place.open("xb") as sink:
                shutil.copyfileobj(content, sink, _CHUNK)
                if sink.tell() != info.file_size:
                    raise guard.refuse(name, f"is cut short (of {info.file_size:,} bytes)")
            _set_mode(place, mode)


def _set_mode(path: Path, mode: int) -> None:
    path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
