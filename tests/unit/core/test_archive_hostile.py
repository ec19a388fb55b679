"""Archives that lie about their sizes, or would cost time, memory or disk."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from archives_made import MODEL, member, refused, tar_bytes, zip_bytes

from kiln.core.archive import unpack
from kiln.core.errors import ArchiveError

#: Numbers that no archive has where it says sizes and places.
IMPOSSIBLE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


@pytest.mark.parametrize("number", IMPOSSIBLE)
@pytest.mark.parametrize(
    ("where", "record"),
    [
        *((where, b"PK\x01\x02") for where in (24, 42)),  # its size; where it begins
        *((where, b"PK\x05\x06") for where in (12, 16)),  # the directory's size, and its place
    ],
)
def test_a_zip_with_impossible_numbers(
    tmp_path: Path, record: bytes, where: int, number: int
) -> None:
    data = bytearray(zip_bytes({"a": b"hello" * 100, "b": b"x"}))
    struct.pack_into("<I", data, data.index(record) + where, number)
    refused(tmp_path, bytes(data))


@pytest.mark.parametrize("number", [1 << 63, (1 << 64) - 1, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("which", [0, 2])
def test_a_zip64_with_impossible_numbers(tmp_path: Path, which: int, number: int) -> None:
    data = bytearray(zip_bytes({"a": b"hello" * 100}))
    place = data.index(b"PK\x01\x02")
    size, packed = struct.unpack_from("<I", data, place + 24)[0], data[place + 20 : place + 24]
    numbers = [size, int.from_bytes(packed, "little"), 0]  # of the entry; where it begins
    numbers[which] = number
    extra = struct.pack("<HHQQQ", 1, 24, *numbers)
    struct.pack_into("<II", data, place + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", data, place + 30, len(extra))
    struct.pack_into("<I", data, place + 42, 0xFFFFFFFF)
    data[place + 47 : place + 47] = extra  # behind the name, which has one character
    end = data.index(b"PK\x05\x06")
    struct.pack_into("<I", data, end + 12, end - place)
    refused(tmp_path, bytes(data))


@pytest.mark.parametrize(
    "digits",
    [
        b"\xff" * 12,  # -1
        b"\xff" * 4 + b"\x80" + b"\0" * 7,  # the least of 64 bits
        b"\x80" + b"\xff" * 11,  # more than any disk has
        b"\x80\0\0\0\x7f" + b"\xff" * 7,
        b"7" * 12,
        b"-0000000001\0",
    ],
)
def test_a_tar_with_impossible_sizes(tmp_path: Path, digits: bytes) -> None:
    data = bytearray(tar_bytes(member("a", b"hello"), member("b", b"x"), format=tarfile.GNU_FORMAT))
    data[124:136] = digits
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    refused(tmp_path, bytes(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\0", "xz file"),
        (os.urandom(5000).replace(b"PK", b"__"), "not an archive"),
        (bytes(10240), "not an archive"),
        (gzip.compress(b"just a text" * 1000), "corrupt"),
        (gzip.compress(b""), "truncated, at its start"),
        (b"PK\x03\x04 and nothing more", "corrupt"),
        (tar_bytes(member("._a")), "holds nothing"),
        (zip_bytes({}), "holds nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_archive(tmp_path: Path, data: bytes, why: str) -> None:
    assert why in refused(tmp_path, data).message


def test_bombs(tmp_path: Path) -> None:
    zeros = bytes(3_000_000)
    limit = 1_000_000
    for data in (
        tar_bytes(member("bomb", zeros)),
        gzip.compress(tar_bytes(member("bomb", zeros))),
        gzip.compress(tar_bytes(*(member(f"bomb{n}", zeros[:400_000]) for n in range(4)))),
        zip_bytes({"bomb": zeros}),
    ):
        error = refused(tmp_path, data, max_bytes=limit)
        assert "'bomb" in error.message
        assert "limit of 1,000,000 bytes" in error.message


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"bomb": bytes(3_000_000)}))
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<L", data, at + 24, 10)
    struct.pack_into("<L", data, 22, 10)
    refused(tmp_path, bytes(data), max_bytes=1_000_000)


def test_zeros_hidden_in_the_tail_of_a_gzip_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = gzip.compress(tar_bytes(*MODEL) + bytes(5_000_000))
    error = refused(tmp_path, data, max_bytes=100_000, max_entries=10)
    assert "more than the limit" in error.message


def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers = {"comment": "x" * 3_000_000}
    assert "unreasonably long" in refused(tmp_path, tar_bytes((info, b""))).message


def pax_header(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header as no library would write it."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"1" * 100_000, "a record without a length"),  # took half a minute, by the square
        (b"5 5 5 " * 10_000 + b"=", "a record of another length"),
        (b"12 path=a\nxx", "a record of another length"),
        (b"9" * 19 + b" path=a\n", "a record of another length"),
        (b"60013 comment=" + b"1" * 59_998 + b"\n", "a number without end"),
    ],
    ids=["digits", "no-equals", "overlong", "beyond", "number"],
)
def test_pax_headers_that_take_long_to_read(tmp_path: Path, content: bytes, why: str) -> None:
    start = time.process_time()
    error = refused(tmp_path, pax_header(content) + tar_bytes(member("a")))
    assert why in error.message
    assert time.process_time() - start < 2


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_a_negative_size(tmp_path: Path, kind: bytes) -> None:
    """tarfile reads as many bytes as it says; of -1,024 bytes that would be everything."""
    header = bytearray(pax_header(b"", kind))
    header[124:136] = (-1024).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    data = gzip.compress(bytes(header) + bytes(100_000_000), 1)
    tracemalloc.start()
    assert "corrupt" in refused(tmp_path, data).message
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_headers_do_not_pile_up(tmp_path: Path) -> None:
    """A few MB that unpack to small files, each with much to say about it."""
    many = b"".join(b"%d g%06d=\n" % (12, n) for n in range(1001))
    one = tar_bytes(member("a"))
    error = refused(tmp_path, pax_header(many, tarfile.XGLTYPE) + one)
    assert "more than 1,000 global headers" in error.message
    notes = pax_header(b"100013 comment=" + b"a" * 99_997 + b"\n") + one[:1024]
    path = tmp_path / "notes"
    with path.open("wb") as file:
        for n in range(150):
            file.write(notes.replace(b"a" + bytes(99), f"f{n}".encode().ljust(100, b"\0")))
    tracemalloc.start()
    with pytest.raises(ArchiveError):
        unpack(path, tmp_path / "dest")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000  # of 15 MB


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_that_fill_the_memory(tmp_path: Path, method: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as bag:
        bag.writestr("bomb", bytes(1 << 20))
    assert "another method than deflate" in refused(tmp_path, out.getvalue()).message


def test_a_zip_directory_that_would_fill_the_memory(tmp_path: Path) -> None:
    data = zip_bytes({"a": b"x"})
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    directory = data[start:end] * 30_000
    tail = struct.pack("<HHIIH", 65535, 65535, len(directory), start, 0)
    bad = data[:start] + directory + data[end : end + 8] + tail
    assert "unreasonably long" in refused(tmp_path, bad, max_entries=10).message
    assert "appears twice" in refused(tmp_path, bad).message


def test_folders_that_no_entry_names_are_counted(tmp_path: Path) -> None:
    data = tar_bytes(*(member("/".join(f"{n}{d}" for d in "abcdefgh")) for n in range(4)))
    assert "more than 20 entries" in refused(tmp_path, data, max_entries=20).message


def test_too_many_entries(tmp_path: Path) -> None:
    data = tar_bytes(*(member(f"f{n}", b"") for n in range(30)))
    assert "more than 20 entries" in refused(tmp_path, data, max_entries=20).message
