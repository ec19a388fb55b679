from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_disk import small_disk

from kiln.core import archive
from kiln.core.archive import unpack
from kiln.core.deterministic_tar import TarEntry, deterministic_tar
from kiln.core.errors import ArchiveError, DiskFullError, StoreError

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


@pytest.mark.parametrize(
    "pack",
    [lambda data: data, gzip.compress],
    ids=["tar", "tar.gz"],
)
@pytest.mark.parametrize(
    "format",
    [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT],
    ids=["pax", "gnu", "ustar"],
)
def test_a_good_tar(tmp_path: Path, pack: Callable[[bytes], bytes], format: int) -> None:
    dest = unpacked(tmp_path, pack(tar_bytes(*MODEL, format=format)), root="model")
    assert (dest / "model/checkpoint/ckpt-0.index").read_bytes() == MODEL[2][1]
    assert stat.S_IMODE((dest / "model").stat().st_mode) == 0o755
    assert stat.S_IMODE((dest / "model/run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((dest / "model/pipeline.config").stat().st_mode) == 0o644
    assert len([p for p in dest.rglob("*") if p.is_file()]) == 3


def test_a_tar_from_before_ustar(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(member("a/b", b"hello"), format=tarfile.USTAR_FORMAT))
    data[257:512] = bytes(255)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert (unpacked(tmp_path, bytes(data)) / "a/b").read_bytes() == b"hello"


def test_a_good_zip(tmp_path: Path) -> None:
    data = zip_bytes({"model/": b"", "model/a": b"hello", "model/deep/b": b""})
    dest = unpacked(tmp_path, data, root="model")
    assert (dest / "model/a").read_bytes() == b"hello"
    assert (dest / "model/deep/b").read_bytes() == b""


def test_what_archivers_add_is_left_out(tmp_path: Path) -> None:
    data = tar_bytes(
        member("._model", b"apple"),
        member("./PaxHeaders.123/model", b"pax"),
        *MODEL,
        member("./model/._pipeline.config", b"apple"),
        member("__MACOSX/model/x", b"apple"),
    )
    dest = unpacked(tmp_path, data, root="model")
    assert [p.name for p in dest.iterdir()] == ["model"]
    assert len([p for p in dest.rglob("*") if p.is_file()]) == 3


def test_links_that_stay_inside_are_made(tmp_path: Path) -> None:
    data = tar_bytes(
        link("model/latest", "checkpoint"),  # before its target
        *MODEL,
        link("model/checkpoint/up", "../pipeline.config"),
        link("model/again", "model/run.sh", tarfile.LNKTYPE),
    )
    dest = unpacked(tmp_path, data)
    assert (dest / "model/latest/ckpt-0.index").is_file()
    assert (dest / "model/checkpoint/up").read_bytes() == b"model {}"
    assert (dest / "model/again").read_bytes() == b"#!/bin/sh\n"
    assert (dest / "model/again").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (member("/etc/passwd"), "'/etc/passwd' has an absolute path"),
        (member("../outside"), "'../outside' leads out"),
        (member("model/../../outside"), "leads out"),
        (member("model/.."), "leads out"),
        (member("._x/../../y"), "leads out"),
        (member("model/a\nb"), "has a character"),
        (member("model\\..\\..\\a"), "has a character"),
        (link("model/l", "/etc/passwd"), "link to '/etc/passwd', outside"),
        (link("model/l", "../../x"), "link to '../../x', outside"),
        (link("model/l", "nowhere"), "link to 'nowhere', which is not there"),
        (link("model/l", "l"), "which is not there"),
        (link(".", "model"), "link without a name"),
        (link("model/h", "/etc/passwd", tarfile.LNKTYPE), "outside the archive"),
        (link("model/h", "../../etc/passwd", tarfile.LNKTYPE), "outside the archive"),
        (link("model/h", "model/none", tarfile.LNKTYPE), "no earlier file"),
        (member("model/null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "is a device"),
        (member("model/disk", b"", type=tarfile.BLKTYPE, devmajor=8), "is a device"),
        (member("model/pipe", b"", type=tarfile.FIFOTYPE), "is a named pipe"),
        (member("model/odd", b"", type=b"Q"), "unknown type"),
        (member("model/run.sh", b"again"), "'model/run.sh' appears twice"),
        (member("model/run.sh/below", b""), "lies below 'model/run.sh'"),
        (member("model/checkpoint", b""), "appears twice"),
        (member("x" * 300, b""), "a name this file system cannot hold"),
        (member("n/" * 2_500 + "x"), "a name of more than 4,096 characters"),
        (member("d/" * 1_000 + "x"), "lies more than 100 folders deep"),
        (member("Model/other"), "'Model/other' cannot be told from 'model'"),
        (member("model/RUN.sh"), "cannot be told from 'model/run.sh'"),
        (member("model/a:b"), "a name that not every system can hold"),
        (member("model/what?"), "a name that not every system can hold"),
        (member("model/ends."), "a name that not every system can hold"),
        (member("model/ends /x"), "a name that not every system can hold"),
        (member("model/AUX.txt"), "a name that not every system can hold"),
        (member("model/com1"), "a name that not every system can hold"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_entries_that_are_refused(tmp_path: Path, bad: Member, why: str) -> None:
    for data in (tar_bytes(*MODEL, bad), gzip.compress(tar_bytes(*MODEL, bad))):
        assert why in refused(tmp_path, data).message


@pytest.mark.parametrize("name", ["console", "com", "lpt10", "a.b c", "-", ".hidden", "auxiliary"])
def test_names_that_every_system_can_hold(tmp_path: Path, name: str) -> None:
    assert (unpacked(tmp_path, tar_bytes(member(f"{name}/{name}"))) / name / name).is_file()


def test_letters_written_in_two_ways_are_one_name(tmp_path: Path) -> None:
    data = zip_bytes({"caf\u00e9": b"1", "cafe\u0301": b"2"})
    assert "cannot be told from" in refused(tmp_path, data).message


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s"}
    now = member("s", b"1\n0\n1\n" + bytes(506) + b"x")
    now[0].pax_headers = {**headers, "GNU.sparse.realsize": str(1 << 40)}
    assert "is a sparse file" in refused(tmp_path, tar_bytes(now)).message
    old = member("s", b"", type=tarfile.GNUTYPE_SPARSE)
    assert "'s' is a sparse file" in refused(tmp_path, tar_bytes(old)).message
    endless = member("s", b"9999999\n" + b"1\n" * 150_000)  # the map has no end
    endless[0].pax_headers = headers
    assert "unreasonably long" in refused(tmp_path, tar_bytes(endless)).message


def test_without_the_filter_of_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's Python has none; what the guard lets pass has to be safe without it."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extraction_filter", None, raising=False)
    victim = tmp_path / "victim"
    victim.mkdir()
    for bad in (
        tar_bytes(link("l", str(victim)), member("l/evil")),
        tar_bytes(link("l", "d"), member("d/x"), member("l/evil")),
        tar_bytes(member(f"..{victim}/evil")),
        tar_bytes(member(f"{victim}/evil")),
    ):
        refused(tmp_path, bad)
    assert list(victim.iterdir()) == []


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    inside = tar_bytes(member("d/x"), link("l", "d"), member("l/evil"))
    assert "lies below 'l'" in refused(tmp_path, inside).message
    outside = tar_bytes(link("l", str(victim)), member("l/evil"))
    assert "outside" in refused(tmp_path, outside).message
    assert list(victim.iterdir()) == []


def test_a_link_that_leaves_only_by_way_of_another(tmp_path: Path) -> None:
    data = tar_bytes(member("x/y/f"), link("x/y/d", "../.."), link("x/y/e", "d/.."))
    assert "'x/y/e' is a link to 'd/..', outside" in refused(tmp_path, data).message


def test_a_hard_link_to_a_link_is_refused(tmp_path: Path) -> None:
    data = tar_bytes(link("l", "."), link("h", "l", tarfile.LNKTYPE))
    assert "no earlier file" in refused(tmp_path, data).message


@pytest.mark.parametrize("name", ["/abs", "../out", "a/../../out", "..\\out"])
def test_zip_paths_that_are_refused(tmp_path: Path, name: str) -> None:
    assert repr(name) in refused(tmp_path, zip_bytes({"ok": b"x", name: b"x"})).message


def test_zip_links_and_devices(tmp_path: Path) -> None:
    evil = zip_bytes({"l": b"../../etc/passwd"}, mode=0o120777)
    assert "outside" in refused(tmp_path, evil).message
    device = zip_bytes({"d": b""}, mode=stat.S_IFCHR | 0o666)
    assert "neither a file nor a folder" in refused(tmp_path, device).message
    long = zip_bytes({"l": b"a" * 100_000}, mode=0o120777)
    assert "impossible target" in refused(tmp_path, long).message


def test_a_zip_name_that_goes_on_behind_a_zero(tmp_path: Path) -> None:
    data = zip_bytes({"a_b": b"x"}).replace(b"a_b", b"a\0b")
    assert "'a\\x00b' has a character" in refused(tmp_path, data).message


def test_an_encrypted_zip(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"secret": b"hello"}))
    data[6] |= 1  # the flag in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    assert "'secret' is encrypted" in refused(tmp_path, bytes(data)).message


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_truncated_archives(tmp_path: Path, share: float) -> None:
    noise = [member(f"m/{n}", random.Random(n).randbytes(20_000)) for n in range(5)]
    plain = tar_bytes(*noise)
    content = len(plain) - 10240  # the last record is mostly padding
    assert "truncated" in refused(tmp_path, plain[: int(content * share)]).message
    packed = gzip.compress(plain)
    assert "truncated" in refused(tmp_path, packed[: int(len(packed) * share)]).message
    bag = zip_bytes({info.name: data for info, data in noise})
    assert "corrupt" in refused(tmp_path, bag[: int(len(bag) * share)]).message


def test_a_tar_cut_between_two_entries(tmp_path: Path) -> None:
    data = tar_bytes(member("a", bytes(512)), member("b", bytes(512)))
    assert "truncated, after the entry 'a'" in refused(tmp_path, data[:1024]).message
    assert "truncated" in refused(tmp_path, gzip.compress(data[:1024])).message


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(member("a", bytes(512)), member("b", bytes(512)), member("c")))
    data[1024 + 150] ^= 0xFF
    error = refused(tmp_path, bytes(data))
    assert "corrupt" in error.message
    assert "after the entry 'a'" in error.message


def test_a_flipped_bit_is_noticed_by_gzip_and_zip(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(200_000)
    for packed in (gzip.compress(tar_bytes(member("a", content))), zip_bytes({"a": content})):
        for at in (len(packed) // 3, len(packed) // 2):
            data = bytearray(packed)
            data[at] ^= 0x10
            assert "corrupt" in refused(tmp_path, bytes(data)).message


def test_garbage_after_gzip_is_noticed(tmp_path: Path) -> None:
    assert "corrupt" in refused(tmp_path, gzip.compress(tar_bytes(*MODEL)) + b"garbage").message


@given(st.data())
def test_no_damage_gets_past_as_another_exception(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bases = [
        tar_bytes(*MODEL, format=tarfile.PAX_FORMAT),
        tar_bytes(member("é" * 120, b"1"), *MODEL, format=tarfile.GNU_FORMAT),
        gzip.compress(tar_bytes(*MODEL)),
        zip_bytes({"a/b": b"hello" * 100, "c": b""}),
    ]
    damaged = bytearray(data.draw(st.sampled_from(bases)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 6000) - 1))] = data.draw(
            st.integers(0, 255)
        )
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "archive").write_bytes(damaged)
    try:
        unpack(folder / "archive", folder / "dest")
    except ArchiveError:  # and not StoreError: nothing is wrong with this machine
        assert [p.name for p in folder.iterdir()] == ["archive"]
    else:
        assert sorted(p.name for p in folder.iterdir()) == ["archive", "dest"]


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


def test_a_missing_top_folder_names_what_is_there(tmp_path: Path) -> None:
    error = refused(tmp_path, tar_bytes(*MODEL, member("README")), root="other")
    assert "no top folder 'other'; found 'README', 'model'" in error.message
    error = refused(tmp_path, tar_bytes(member("model")), root="model")  # a file of that name
    assert "no top folder 'model'" in error.message


def test_dest_must_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(*MODEL))
    dest = tmp_path / "dest"
    dest.mkdir()
    unpack(path, dest)
    with pytest.raises(StoreError, match="not an empty folder"):
        unpack(path, dest)
    with pytest.raises(StoreError, match="Cannot read"):
        unpack(tmp_path / "none.tar", tmp_path / "dest2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "dest"]


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes(*MODEL, member("big", bytes(1_000_000)))))
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(DiskFullError, match="disk/dest"):
            unpack(path, disk / "dest")
        assert list(disk.iterdir()) == []


# -- deterministic_tar --------------------------------------------------------------------------


def _tar(source: Path | list[TarEntry], **options: object) -> bytes:
    out = io.BytesIO()
    deterministic_tar(out, source, **{"mtime": 7, **options})  # type: ignore[arg-type]
    return out.getvalue()


def test_the_bytes_are_the_known_ones() -> None:
    entries = [
        TarEntry("b", b"two", executable=True),
        TarEntry("a"),
        TarEntry("a/c" * 60, "é".encode()),
    ]
    digest = hashlib.sha256(_tar(entries)).hexdigest()
    assert digest == KNOWN


KNOWN = "afe09952f255e6cfe4ba9e16d760d2902255f6f00bf33dee889be9ad5307a80a"


@given(
    st.dictionaries(
        st.text("ab/é", min_size=1, max_size=130), st.tuples(st.binary(max_size=9), st.booleans())
    ),
    st.randoms(),
)
def test_the_order_of_entries_does_not_count(
    files: dict[str, tuple[bytes, bool]], shuffler: random.Random
) -> None:
    entries = [TarEntry(name, data, bit) for name, (data, bit) in files.items()]
    first = _tar(entries)
    shuffler.shuffle(entries)
    assert _tar(entries) == first


def test_a_folder_written_twice_under_other_circumstances(tmp_path: Path) -> None:
    made = []
    for name, order in (("one", [0, 1, 2]), ("two", [2, 0, 1])):
        root = tmp_path / name
        old = os.umask(0o077 if name == "two" else 0o022)
        try:
            for number in order:
                path = root / f"sub{number}" / "file"
                path.parent.mkdir(parents=True)
                path.write_text(str(number))
                os.utime(path, (number, number))
            (root / "link").symlink_to("sub0/file")
            (root / "sub1" / "file").chmod(0o700)
        finally:
            os.umask(old)
        made.append(_tar(root, prefix="top/"))
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(made[0])) as tar:
        infos = tar.getmembers()
    assert [i.name for i in infos] == [
        *("top/link", "top/sub0", "top/sub0/file", "top/sub1", "top/sub1/file"),
        *("top/sub2", "top/sub2/file"),
    ]
    assert {(i.uid, i.gid, i.uname, i.gname, i.mtime) for i in infos} == {(0, 0, "", "", 7)}
    assert [oct(i.mode) for i in infos[:5]] == ["0o777", "0o755", "0o644", "0o755", "0o755"]


def test_what_is_written_can_be_unpacked(tmp_path: Path) -> None:
    entries = [TarEntry("m/x", b"1", executable=True), TarEntry("m/l", link="x")]
    dest = unpacked(tmp_path, _tar(entries), root="m")
    assert (dest / "m/l").read_bytes() == b"1"
    assert os.access(dest / "m/x", os.X_OK)


def test_tars_that_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="Two entries are named 'a'"):
        _tar([TarEntry("a", b"1"), TarEntry("a", b"2")])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="pipe is neither"):
        _tar(tmp_path)


def test_archives_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "wrong.zip"
    path.write_bytes(tar_bytes(*MODEL))
    unpack(path, tmp_path / "dest")
    assert (tmp_path / "dest/model/pipeline.config").is_file()
    assert archive.MAX_BYTES > 1 << 30
