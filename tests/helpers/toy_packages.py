"""Small Debian and Python packages, made here."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence


def tar_xz(entries: list[tuple[str, object]]) -> bytes:
    """Files (bytes), folders (None or a mode), symbolic (str) and hard links (("link", target))."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        for name, what in entries:
            info = tarfile.TarInfo(name)
            info.mtime, info.uname, info.gname = 1234567, "builder", "builder"
            if isinstance(what, bytes):
                info.size, info.mode = len(what), 0o755 if "/bin/" in name else 0o644
                tar.addfile(info, io.BytesIO(what))
                continue
            if what is None or isinstance(what, int):
                info.type, info.mode = tarfile.DIRTYPE, what or 0o755
            elif isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what
            elif isinstance(what, tuple):
                info.type, info.linkname = tarfile.LNKTYPE, what[1]
            tar.addfile(info)
    return out.getvalue()


def ar(members: list[tuple[str, bytes]]) -> bytes:
    """The common ar format: 60-byte headers, contents padded to even lengths."""
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def debian_package(name: str, fields: str, payload: Sequence[tuple[str, object]]) -> bytes:
    """A package of version 1.0 with more control ``fields`` (whole lines)."""
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\n{fields}Description: toy\n"
    return ar(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", tar_xz([("./control", control.encode())])),
            ("data.tar.xz", tar_xz(list(payload))),
        ]
    )


def wheel(name: str, version: str, fields: str) -> bytes:
    """A wheel with nothing but metadata; ``fields`` are whole lines."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo(f"{name}-{version}.dist-info/METADATA")
        archive.writestr(info, f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{fields}")
    return out.getvalue()
