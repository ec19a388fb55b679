"""Untrusted archives: unpacked whole, or refused."""

from __future__ import annotations

import gzip
import random
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives_made import MODEL, Member, link, member, refused, tar_bytes, unpacked, zip_bytes
from hypothesis import given
from hypothesis import strategies as st
from small_disk import small_disk

from kiln.core import archive
from kiln.core.archive import unpack
from kiln.core.errors import ArchiveError, DiskFullError, StoreError


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


def test_archives_are_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "wrong.zip"
    path.write_bytes(tar_bytes(*MODEL))
    unpack(path, tmp_path / "dest")
    assert (tmp_path / "dest/model/pipeline.config").is_file()
    assert archive.MAX_BYTES > 1 << 30
