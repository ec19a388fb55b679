from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln.core.errors import ImageBuildError
from kiln.images.seal import (
    FileFact,
    Sealed,
    Sealer,
    compare,
    compare_configs,
    pack_contents,
    read_contents,
    spool,
)

EPOCH = 1735689600
SETTINGS = {
    "Env": ["PATH=/bin", "TZ=UTC"],
    "Cmd": ["/bin/sh"],
    "WorkingDir": "/kiln",
    # What follows is the engine's or of no concern to a sealed image.
    "Hostname": "3f2a",
    "Image": "sha256:5678",
    "Labels": {"org.tflite-kiln.owner": "1-2-3"},
}


def entry(name: str, data: bytes | None = None, **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A file with ``data``, or (with ``type``) something else."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data or b""), 0o644, 1700000000
    info.uname, info.gname = "builder", "builder"
    if data is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    for field, value in changes.items():
        setattr(info, field, value)
    return info, data or b""


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=kind, linkname=target)


def export(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar as an engine's export writes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def seal(exported: bytes, settings: dict[str, Any] | None = None) -> tuple[Sealed, bytes]:
    sealer = Sealer(
        io.BytesIO(exported),
        SETTINGS if settings is None else settings,
        epoch=EPOCH,
        repository="tflite-kiln/toy",
    )
    archive = b"".join(sealer.archive())
    assert sealer.sealed is not None
    return sealer.sealed, archive


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            info.name: stream.read()
            for info in tar
            if (stream := tar.extractfile(info)) is not None
        }


def layer(exported: bytes) -> dict[str, tarfile.TarInfo]:
    data = members(seal(exported)[1])["layer.tar"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: info for info in tar}


TREE = [
    entry("bin"),
    entry("bin/sh", b"a shell", mode=0o755),
    entry("etc"),
    entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
    link("lib", "usr/lib", tarfile.SYMTYPE),
    entry("usr"),
    entry("usr/lib"),
    entry("usr/lib/a.so", b"library", uid=7, gid=8),
    link("usr/lib/b.so", "usr/lib/a.so"),
    entry("usr/lib/empty", b""),
    entry("home", mode=0o2775),
]


# --- the archive is one that engines load ------------------------------------------------------


def test_the_archive_holds_what_it_says() -> None:
    sealed, archive = seal(export(*TREE))
    found = members(archive)
    config_name = f"{sealed.identity.removeprefix('sha256:')}.json"
    assert list(found) == ["layer.tar", config_name, "manifest.json"]
    assert json.loads(found["manifest.json"]) == [
        {
            "Config": config_name,
            "RepoTags": [f"tflite-kiln/toy:{sealed.identity[7:23]}"],
            "Layers": ["layer.tar"],
        }
    ]
    assert found[config_name] == sealed.config
    assert hashlib.sha256(found["layer.tar"]).hexdigest() == sealed.layer.removeprefix("sha256:")
    assert len(found["layer.tar"]) == sealed.size
    config = json.loads(sealed.config)
    assert config["rootfs"] == {"type": "layers", "diff_ids": [sealed.layer]}
    assert config["config"] == {name: SETTINGS[name] for name in ("Env", "Cmd", "WorkingDir")}
    assert config["created"] == "2025-01-01T00:00:00Z"


def test_the_layer_can_be_unpacked(tmp_path: Path) -> None:
    data = members(seal(export(*TREE))[1])["layer.tar"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(tmp_path, filter="tar")
    assert (tmp_path / "usr/lib/b.so").read_bytes() == b"library"
    assert (tmp_path / "lib/a.so").read_bytes() == b"library"
    assert (tmp_path / "bin/sh").stat().st_mode & stat.S_IXUSR
    assert (tmp_path / "bin/sh").stat().st_mtime == EPOCH


def test_contents_describe_the_layer() -> None:
    facts = {fact.path: fact for fact in seal(export(*TREE))[0].contents}
    sha = hashlib.sha256(b"library").hexdigest()[:16]
    assert facts["usr/lib/a.so"] == FileFact("usr/lib/a.so", "f", 0o644, "7:8", 7, sha)
    assert facts["usr/lib/b.so"] == FileFact("usr/lib/b.so", "h", 0o644, "7:8", 0, "usr/lib/a.so")
    assert facts["lib"] == FileFact("lib", "l", 0o777, "0:0", 0, "usr/lib")
    assert facts["home"] == FileFact("home", "d", 0o2775, "0:0", 0, "")


def test_long_names_and_targets_survive() -> None:
    deep = "/".join(["a-rather-long-folder-name"] * 9)
    found = layer(export(entry(f"{deep}/file", b"x"), link("short", f"{deep}/file")))
    assert found[f"{deep}/file"].isreg()  # "a-..." sorts before "short"
    assert found["short"].linkname == f"{deep}/file"


# --- one identity, however it was exported -----------------------------------------------------


@given(st.permutations(TREE))
def test_order_of_entries_does_not_matter(order: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    assert seal(export(*order))[0] == seal(export(*TREE))[0]


@given(st.integers(0, 2**33), st.text("abc", max_size=8), st.booleans())
def test_times_owner_names_and_prefixes_do_not_matter(mtime: int, name: str, dotted: bool) -> None:
    changed = []
    for info, data in TREE:
        other = tarfile.TarInfo(("./" if dotted else "") + info.name)
        for field in ("type", "size", "mode", "uid", "gid", "linkname"):
            setattr(other, field, getattr(info, field))
        if dotted and info.islnk():
            other.linkname = f"./{info.linkname}"
        other.mtime, other.uname, other.gname = mtime, name, name
        changed.append((other, data))
    assert seal(export(*changed))[0] == seal(export(*TREE))[0]


def test_what_the_engine_adds_does_not_matter() -> None:
    noise = [
        entry(".dockerenv", b""),
        entry("etc/hostname", b"3f2a1b\n"),
        entry("etc/hosts", b"127.0.0.1 localhost\n", mode=0o600),
        entry("etc/resolv.conf", b"nameserver 10.0.0.1\n"),
        link("etc/mtab", "/proc/mounts", tarfile.SYMTYPE),
        entry("dev"),
        entry("dev/console", type=tarfile.CHRTYPE),
        entry("dev/pts"),
        entry("proc", mode=0o555),
        entry("run/.containerenv", b"podman"),
        entry("tmp/left.over", b"x"),
        entry("var/fifo", type=tarfile.FIFOTYPE),
    ]
    sealed = seal(export(*TREE, *noise, entry("var")))[0]
    assert sealed == seal(export(*TREE, entry("var")))[0]
    facts = {fact.path: fact for fact in sealed.contents}
    assert facts["etc/hosts"].size == facts["etc/resolv.conf"].size == 0
    assert facts["tmp"].mode == 0o1777
    assert not {".dockerenv", "dev/console", "var/fifo", "tmp/left.over"} & facts.keys()


def test_devices_anywhere_are_dropped() -> None:
    found = layer(export(*TREE, entry("opt/null", type=tarfile.CHRTYPE), entry("opt/x", b"")))
    assert "opt/x" in found and "opt/null" not in found


@pytest.mark.parametrize("settings", [{}, {**SETTINGS, "Hostname": "other", "Labels": None}])
def test_only_three_settings_count(settings: dict[str, Any]) -> None:
    same = seal(export(*TREE), settings)[0].identity == seal(export(*TREE))[0].identity
    assert same is bool(settings)


@pytest.mark.parametrize(
    "change",
    [
        entry("bin/sh", b"a shell"),  # mode
        entry("bin/sh", b"a shelL", mode=0o755),
        entry("bin/sh", b"a shell", mode=0o755, uid=1),
        entry("bin/sh", b"a shell", mode=0o4755),
        link("bin/sh", "dash", tarfile.SYMTYPE),
        entry("bin/new", b""),
    ],
    ids=["mode", "content", "owner", "setuid", "kind", "added"],
)
def test_what_an_image_is_does_matter(change: tuple[tarfile.TarInfo, bytes]) -> None:
    tree = [item for item in TREE if item[0].name != change[0].name]
    old, new = seal(export(*TREE))[0], seal(export(*tree, change))[0]
    assert new.identity != old.identity
    assert [line.split(":")[0] for line in compare(old.contents, new.contents)] == [
        f"/{change[0].name}"
    ]


# --- hard links --------------------------------------------------------------------------------


@given(st.permutations(["m/one", "z", "a/two", "m/three"]))
def test_which_name_of_a_file_the_engine_met_first_does_not_matter(names: list[str]) -> None:
    first, *rest = names
    found = layer(
        export(entry(first, b"content", mode=0o755), *[link(name, first) for name in rest])
    )
    assert found["a/two"].isreg()
    assert {found[name].linkname for name in names if name != "a/two"} == {"a/two"}
    order = list(found)
    assert order.index("a/two") < min(order.index(name) for name in names if name != "a/two")


def test_a_hard_link_to_nothing_is_a_broken_export() -> None:
    with pytest.raises(ImageBuildError, match=r"links bin/x to a missing bin/gone"):
        seal(export(link("bin/x", "bin/gone")))


# --- broken exports ----------------------------------------------------------------------------

WHOLE = export(*TREE, entry("zz", b"Z" * 2000))
END = len(WHOLE.rstrip(b"\0"))


@pytest.mark.parametrize("length", [0, 100, 512, 513, 1536, END - 600, END])
def test_a_cut_export_is_refused(length: int) -> None:
    with pytest.raises(ImageBuildError):
        seal(WHOLE[:length])


@given(st.integers(0, END))
def test_an_export_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ImageBuildError):
        seal(WHOLE[:length])


def test_an_export_without_its_end_is_refused() -> None:
    """The engine died between two files: every entry is whole, and some are not there."""
    headers = [at for at in range(0, END, 512) if WHOLE[at + 257 : at + 262] == b"ustar"]
    for at in headers[1:]:
        with pytest.raises(ImageBuildError, match="it is truncated"):
            seal(WHOLE[:at])
    assert len(headers) == len(TREE) + 1


def test_a_damaged_header_is_refused() -> None:
    at = WHOLE.index(b"usr/lib/a.so")
    with pytest.raises(ImageBuildError):
        seal(WHOLE[:at] + b"\xff" * 200 + WHOLE[at + 200 :])


def test_a_file_that_shrinks_under_our_hands_is_refused() -> None:
    stream = io.BytesIO(WHOLE)
    sealer = Sealer(stream, SETTINGS, epoch=EPOCH, repository="tflite-kiln/toy")
    chunks = sealer.archive()
    next(chunks)
    stream.truncate(END - 600)
    with pytest.raises(ImageBuildError, match="ended in the middle of a file"):
        list(chunks)
    assert sealer.sealed is None


def test_nothing_is_sealed_before_the_archive_is_complete() -> None:
    sealer = Sealer(io.BytesIO(WHOLE), SETTINGS, epoch=EPOCH, repository="tflite-kiln/toy")
    chunks: Iterator[bytes] = sealer.archive()
    for _ in range(5):
        next(chunks)
    assert sealer.sealed is None


# --- contents lists ----------------------------------------------------------------------------

facts = st.builds(
    FileFact,
    # What a file name may hold; bytes that are no UTF-8 come as lone surrogates from tar.
    path=st.text(
        st.characters(exclude_characters="\0", exclude_categories=[])
        | st.sampled_from("\t\n\\\x85\u2028\udcff"),
        min_size=1,
    ),
    kind=st.sampled_from("fdlh"),
    mode=st.integers(0, 0o7777),
    owner=st.just("0:0") | st.just("1000:65534"),
    size=st.integers(0, 1 << 40),
    content=st.text("0123456789abcdef", min_size=16, max_size=16) | st.just("../lib\n/x"),
)


@given(st.lists(facts, max_size=5))
def test_contents_survive_packing(listed: list[FileFact]) -> None:
    assert read_contents(pack_contents(listed)) == listed


def test_packed_contents_are_the_same_every_time() -> None:
    sealed = seal(export(*TREE))[0]
    assert pack_contents(sealed.contents) == pack_contents(list(sealed.contents))


def test_compare_says_what_differs() -> None:
    a = FileFact("bin/x", "f", 0o755, "0:0", 10, "aa")
    gone, new = FileFact("a", "d", 0o755, "0:0", 0, ""), FileFact("z", "f", 0o644, "0:0", 3, "cc")
    other = FileFact("bin/x", "h", 0o644, "1:0", 0, "bin/y")
    assert compare([a, gone], [a, gone]) == []
    assert compare([a, gone], [new, other]) == [
        "/a: missing",
        "/bin/x: kind f -> h, mode 755 -> 644, owner 0:0 -> 1:0, size 10 -> 0, content aa -> bin/y",
        "/z: added (3 bytes)",
    ]


@given(st.lists(facts, max_size=5, unique_by=lambda fact: fact.path))
def test_compare_finds_nothing_between_equals_and_everything_against_nothing(
    listed: list[FileFact],
) -> None:
    assert compare(listed, reversed(listed)) == []
    assert len(compare(listed, [])) == len(compare([], listed)) == len(listed)


def test_spool_rewinds(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w+b") as into:
        assert spool([b"ab", b"", b"c"], into).read() == b"abc"


def test_the_order_of_variables_does_not_count() -> None:
    """Podman moves a variable that a child image sets again to the end of the list."""
    permuted = {**SETTINGS, "Env": list(reversed(SETTINGS["Env"]))}
    found = set()
    for settings in (SETTINGS, permuted):
        sealer = Sealer(io.BytesIO(WHOLE), settings, epoch=EPOCH, repository="tflite-kiln/toy")
        for _ in sealer.archive():
            pass
        assert sealer.sealed is not None
        found.add(sealer.sealed.identity)
    assert len(found) == 1


def test_configurations_are_compared_in_words() -> None:
    old = json.dumps({"config": {"Env": ["A=1"], "Cmd": ["sh"], "WorkingDir": "/"}}).encode()
    new = json.dumps({"config": {"Env": ["A=2"], "Cmd": ["sh"], "WorkingDir": "/"}}).encode()
    assert compare_configs(old, old) == []
    assert compare_configs(old, new) == ["configuration, Env: ['A=1'] -> ['A=2']"]
