from __future__ import annotations

import io
import zipfile

import pytest
from places import FIXTURES

from stages.tflite import flatbuffer, packed_files, tflite_model

MODEL = (FIXTURES / "toy_ssd.tflite").read_bytes()


def appended(when: tuple[int, int, int, int, int, int], names: list[str]) -> bytes:
    """What tflite-support does: entries with the time of the day, in the order given."""
    stream = io.BytesIO(MODEL)
    with zipfile.ZipFile(stream, "a") as archive:
        for name in names:
            info = zipfile.ZipInfo(name, when)
            info.external_attr = 0o644 << 16
            archive.writestr(info, f"content of {name}")
    return stream.getvalue()


def test_time_order_and_mode_do_not_matter() -> None:
    one = appended((2021, 7, 1, 12, 0, 0), ["b.txt", "a.txt"])
    two = appended((2026, 11, 22, 8, 30, 2), ["a.txt", "b.txt"])
    assert one != two
    assert packed_files.canonical(one) == packed_files.canonical(two)
    assert packed_files.canonical(packed_files.canonical(one)) == packed_files.canonical(one)


def test_entries_are_stored_and_undated() -> None:
    data = packed_files.pack(MODEL, {"labelmap.txt": b"red\n"})
    assert data.startswith(MODEL)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (info,) = archive.infolist()
    assert info.date_time == (1980, 1, 1, 0, 0, 0)
    assert info.compress_type == zipfile.ZIP_STORED
    assert info.header_offset == len(MODEL)  # counted from the start of the file
    assert info.extra == b""
    start = info.header_offset + 30 + len(info.filename)
    assert data[start : start + 4] == b"red\n"


def test_split_and_pack_are_inverse() -> None:
    files = {"a.txt": b"1", "labelmap.txt": b""}
    assert packed_files.split(packed_files.pack(MODEL, files)) == (MODEL, files)
    assert packed_files.split(MODEL) == (MODEL, {})
    assert packed_files.canonical(MODEL) == MODEL
    tflite_model.read(packed_files.pack(MODEL, files))


def test_compressed_or_damaged_archives_are_refused() -> None:
    stream = io.BytesIO(MODEL)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("a.txt", b"x" * 1000, zipfile.ZIP_DEFLATED)
    with pytest.raises(flatbuffer.FlatError, match="compressed"):
        packed_files.canonical(stream.getvalue())
    data = bytearray(packed_files.pack(MODEL, {"a.txt": b"hello"}))
    data[data.index(b"hello")] ^= 1
    with pytest.raises(flatbuffer.FlatError, match="cannot be read"):
        packed_files.canonical(data)
