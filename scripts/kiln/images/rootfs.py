"""Build a Debian root file system directly from ``.deb`` files.

The base image is a pure function of the locked packages: their payloads are merged into one
tar, and the few things that maintainer scripts would have added (users, ``/bin/sh``, the package
database) are written here. No chroot, no root rights, no dpkg on the host: the same bytes on
every machine that has Python. (debootstrap and mmdebstrap run the packages' scripts, which need
root, leave machine-made files behind, and differ between releases of the tool itself.)
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from debian.arfile import ArError
from debian.debfile import DebError, DebFile

from kiln.core.errors import ArchiveError

#: Documentation is not needed inside a sealed image; licences (``copyright``) stay.
_DROPPED = re.compile(
    r"^(usr/share/(man|info|locale|lintian|bash-completion|menu|pixmaps|applications|binfmts)/"
    r"|usr/share/doc/(?!.*/copyright$)"
    r"|usr/share/doc-base/"
    r"|usr/lib/python3/dist-packages/__pycache__/)"
)

#: Links that packages make in their postinst (dash: diversion of sh; mawk: alternatives), unless
#: they ship them, as newer ones do.
_LINKS = {"bin/sh": "dash", "usr/bin/awk": "mawk", "var/run": "/run", "var/lock": "/run/lock"}

#: Exceptions from reading a damaged package, here or in the package library.
UNREADABLE = (
    ArError,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    KeyError,
    EOFError,
    OSError,
    ValueError,
)

#: The name of the unprivileged user that stages run as.
STAGE_USER, STAGE_UID = "kiln", 1000


@dataclass(frozen=True)
class _Entry:
    info: tarfile.TarInfo
    data: bytes | None


def build_rootfs(debs: Iterable[Path], out: IO[bytes], *, epoch: int) -> None:
    """Write the merged root file system of ``debs`` to ``out`` as an uncompressed tar.

    Args:
        debs: the package files; their order does not matter.
        out: binary stream, written once from start to end.
        epoch: seconds since 1970-01-01 UTC given to every entry (``SOURCE_DATE_EPOCH``).

    Raises:
        ArchiveError: a file is not a Debian package, or two packages disagree about a file.
    """
    entries: dict[str, _Entry] = {}
    owner: dict[str, str] = {}
    stanzas: dict[str, str] = {}
    for deb in sorted(debs, key=lambda p: p.name):
        try:
            with deb.open("rb") as stream:
                package = DebFile(fileobj=stream)
                control = package.control.get_content("control", encoding="utf-8")
                if not isinstance(control, str):
                    raise DebError("no control file")
                name = package.debcontrol()["Package"]
                stanzas[name] = control
                listed = ["/."]
                for entry in _payload(package):
                    path = entry.info.name
                    listed.append("/" + path)
                    _merge(entries, owner, entry, name)
                md5sums = (
                    package.control.get_content("md5sums") if "md5sums" in package.control else b""
                )
        except UNREADABLE as error:
            raise ArchiveError(
                f"{deb.name} is not a readable Debian package ({error}).",
                "Remove it from the store with `kiln clean --store` and fetch it again.",
            ) from error
        base = f"var/lib/dpkg/info/{name}"
        for suffix, data in (("list", _lines(listed)), ("md5sums", _bytes(md5sums))):
            _merge(entries, owner, _file(f"{base}.{suffix}", data), name)
    for extra in _machine_independent_setup(entries, stanzas):
        entries[extra.info.name] = extra
    _write(entries.values(), out, epoch)


def _payload(package: DebFile) -> Iterator[_Entry]:
    data = package.data.tgz()
    for info in data:
        path = str(info.name).removeprefix("./").rstrip("/")
        if path in ("", ".") or _DROPPED.match(path + ("/" if info.isdir() else "")):
            continue
        if info.isdir() and path.startswith("usr/share/doc/"):
            continue  # only those that hold a copyright file, made on demand
        stream = data.extractfile(info) if info.isreg() else None
        # A plain TarInfo: the package library's own normalises names on every access.
        plain = tarfile.TarInfo(path)
        plain.type, plain.mode, plain.size = info.type, info.mode, info.size
        plain.uid, plain.gid = info.uid, info.gid
        plain.linkname = str(info.linkname).removeprefix("./" if info.islnk() else "")
        yield _Entry(plain, stream.read() if stream else None)


def _merge(entries: dict[str, _Entry], owner: dict[str, str], new: _Entry, package: str) -> None:
    path = new.info.name
    old = entries.get(path)
    if old is not None and not (old.info.isdir() and new.info.isdir()):
        raise ArchiveError(
            f"Both {owner[path]} and {package} ship /{path}.",
            "Drop one of them from the image's packages.in and lock again.",
        )
    entries.setdefault(path, new)
    owner.setdefault(path, package)


def _machine_independent_setup(
    entries: dict[str, _Entry], stanzas: dict[str, str]
) -> Iterator[_Entry]:
    """Yield what the packages' maintainer scripts would have made, without running them."""
    for path, target in _LINKS.items():
        shipped = entries.get(_followed(entries, path))
        if shipped is not None and shipped.info.issym():
            continue
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
        yield _Entry(info, None)
    for name in ("passwd", "group"):
        path = f"usr/share/base-passwd/{name}.master"
        if path not in entries:
            raise ArchiveError(
                f"None of the packages ships /{path}.",
                "Put base-passwd back into the image's packages.in and lock again.",
            )
        master = entries[path].data or b""
        mine = (
            f"{STAGE_USER}:x:{STAGE_UID}:{STAGE_UID}:stages:/tmp:/usr/sbin/nologin\n"
            if name == "passwd"
            else f"{STAGE_USER}:x:{STAGE_UID}:\n"
        )
        yield _file(f"etc/{name}", master.replace(b":*:", b":x:") + mine.encode())
    yield _file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    yield _file("etc/debian_chroot", b"kiln\n")
    for path, mode in (("tmp", 0o1777), ("run", 0o755), ("proc", 0o755), ("sys", 0o755)):
        yield _directory(path, mode)
    for path in ("dev", "in", "out", "kiln", "kiln/stages"):
        # Mount points: a read-only root cannot grow them at run time.
        yield _directory(path, 0o755)
    status = []
    for name in sorted(stanzas):
        first, *rest = stanzas[name].strip("\n").split("\n")
        status.append("\n".join([first, "Status: install ok installed", *rest]) + "\n")
    yield _file("var/lib/dpkg/status", "\n".join(status).encode())


def _followed(entries: dict[str, _Entry], path: str) -> str:
    """Return where a path leads if its first folder is a link, as /bin is on a merged /usr."""
    first, _, rest = path.partition("/")
    entry = entries.get(first)
    return f"{entry.info.linkname}/{rest}" if entry is not None and entry.info.issym() else path


def _file(path: str, data: bytes, mode: int = 0o644) -> _Entry:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), mode
    return _Entry(info, data)


def _directory(path: str, mode: int) -> _Entry:
    info = tarfile.TarInfo(path)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return _Entry(info, None)


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _bytes(value: bytes | str | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _write(entries: Iterable[_Entry], out: IO[bytes], epoch: int) -> None:
    by_path = {entry.info.name: entry for entry in entries}
    for path in list(by_path):
        for parent in Path(path).parents:
            if str(parent) != "." and str(parent) not in by_path:
                by_path[str(parent)] = _directory(str(parent), 0o755)
    # Hard links after everything else: their targets must already be there when unpacked.
    order = sorted(by_path.values(), key=lambda e: (e.info.islnk(), e.info.name))
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for entry in order:
            info = entry.info
            info.mtime, info.uname, info.gname, info.pax_headers = epoch, "", "", {}
            tar.addfile(info, io.BytesIO(entry.data) if entry.data is not None else None)
