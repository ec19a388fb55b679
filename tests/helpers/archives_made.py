"""Archives written by hand, and how each is refused."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from kiln.core.archive import unpack
from kiln.core.errors import ArchiveError

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"x", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    return member(name, b"", type=kind, linkname=target)


def tar_bytes(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_bytes(entries: dict[str, bytes], *, mode: int = 0o100644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bag:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            bag.writestr(info, data)
    return out.getvalue()


MODEL = (
    member("model", b"", type=tarfile.DIRTYPE, mode=0o700),
    member("model/pipeline.config", b"model {}"),
    member("model/checkpoint/ckpt-0.index", os.urandom(3000)),
    member("model/run.sh", b"#!/bin/sh\n", mode=0o4777),
)


def refused(tmp_path: Path, data: bytes, **options: object) -> ArchiveError:
    """Unpacking must fail as an ArchiveError and leave nothing; returns the error."""
    path = tmp_path / "in" / "some archive"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    dest = tmp_path / "out" / "dest"
    with pytest.raises(ArchiveError) as caught:
        unpack(path, dest, **options)  # type: ignore[arg-type]
    assert list(dest.parent.iterdir()) == []
    assert "some archive" in caught.value.message
    assert caught.value.remedy
    return caught.value


def unpacked(tmp_path: Path, data: bytes, **options: object) -> Path:
    path = tmp_path / "some archive"
    path.write_bytes(data)
    unpack(path, tmp_path / "out" / "dest", **options)  # type: ignore[arg-type]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["dest"]
    return tmp_path / "out" / "dest"
