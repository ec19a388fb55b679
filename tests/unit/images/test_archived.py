"""Archives of sealed images against the lock."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_engine import serve
from toy_offline import Offline, kiln, make_offline

from kiln.core.errors import ImageMismatchError
from kiln.images import archived
from kiln.images.builder import Images
from kiln.images.lock import Locked
from kiln.running.engine import Engine


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    root = tmp_path_factory.mktemp("offline")
    return make_offline(root / "project", root / "store")


def archive_of(offline: Offline, name: str) -> bytes:
    digest = archived.stored(offline.store, offline.locked(name))
    assert digest is not None
    return offline.store.path(digest).read_bytes()


def pieces(data: bytes, seed: int) -> list[bytes]:
    """``data`` cut at random places."""
    cuts = sorted(random.Random(seed).choices(range(len(data) + 1), k=9))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@pytest.mark.parametrize("seed", range(8))
def test_it_does_not_matter_how_it_comes(offline: Offline, seed: int) -> None:
    locked, data = offline.locked("odapi"), archive_of(offline, "odapi")
    assert archived.size_of(locked) == len(data)
    archived.check(iter(pieces(data, seed)), locked, "it")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_is_seen(offline: Offline, data: st.DataObject) -> None:
    locked, whole = offline.locked("base"), archive_of(offline, "base")
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ImageMismatchError, match=r"^it is not the archive of .*'base'"):
        archived.check(iter([bytes(damaged)]), locked, "it")


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 5000, -1025, -1, None])
def test_too_short_or_too_long(offline: Offline, cut: int | None) -> None:
    locked, whole = offline.locked("base"), archive_of(offline, "base")
    data = whole + b"\0" if cut is None else whole[:cut]
    with pytest.raises(ImageMismatchError):
        archived.check(iter([data]), locked, "it")


def test_the_archive_of_another_image(offline: Offline) -> None:
    with pytest.raises(ImageMismatchError, match="layer"):
        archived.check(iter([archive_of(offline, "odapi")]), offline.locked("base"), "it")
    other = replace(offline.locked("base"), config="{}")
    with pytest.raises(ImageMismatchError, match="configuration"):
        archived.check(iter([archive_of(offline, "base")]), other, "it")


def test_the_store_is_told_no_lies(offline: Offline) -> None:
    locked = replace(offline.locked("base"), identity=offline.locked("odapi").identity)
    digest = archived.stored(offline.store, offline.locked("base"))
    assert digest is not None
    with pytest.raises(ImageMismatchError):
        archived.check_stored(offline.store, locked, digest)
    archived.check_stored(offline.store, offline.locked("base"), digest)


def without_engine() -> Engine:
    raise AssertionError("no engine is needed")


def test_saved_from_the_store_and_known_again(offline: Offline, tmp_path: Path) -> None:
    images = Images(offline.project.docker, without_engine, offline.store)
    target = tmp_path / "base.tar"
    digest = images.save("base", target)
    assert target.read_bytes() == archive_of(offline, "base")
    assert digest == archived.stored(offline.store, offline.locked("base"))
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_is_no_locked_image_never_reaches_the_engine(
    offline: Offline, tmp_path: Path
) -> None:
    images = Images(offline.project.docker, without_engine, offline.store)
    path = tmp_path / "x.tar"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(ImageMismatchError, match="1,000 bytes"):
        images.load(path)
    whole = bytearray(archive_of(offline, "odapi"))
    whole[700] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ImageMismatchError, match=r"x\.tar is not the archive"):
        images.load(path)


def test_a_ref_that_lies_is_not_used(offline: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content it names is another image's: told, and not given to the engine."""
    told: list[str] = []
    locked, other = offline.locked("base"), offline.locked("odapi")
    wrong = archived.stored(offline.store, other)
    assert wrong is not None

    def listen(event: str, **fields: object) -> None:
        told.append(str(fields.get("message", "")))

    with serve() as toy:
        monkeypatch.setenv("DOCKER_HOST", toy.address)
        images = Images(offline.project.docker, Engine.find, offline.store, listen)
        lie = {"sha256": wrong}
        monkeypatch.setattr(offline.store, "get_ref", lambda kind, name: lie)
        assert not images._from_store(locked)
    assert any("It is not used." in text for text in told)


def test_sizes_follow_from_the_lock(offline: Offline) -> None:
    locked: Locked = offline.locked("base")
    assert archived.size_of(replace(locked, size=locked.size + 10240)) == (
        archived.size_of(locked) + 10240
    )


def test_the_commands(offline: Offline, tmp_path: Path) -> None:
    """Saving what the store has needs no engine; what is wrong is told before one is looked for."""
    store = offline.store.root
    saved = kiln(offline, store, "images", "save", "-o", tmp_path / "all")
    assert saved.returncode == 0, saved.stderr
    names = sorted(
        offline.locked(name).tag.replace("/", "-") for name in ("base", "device", "odapi")
    )
    found = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert found == [f"{name.removeprefix('tflite-kiln-').replace(':', '-')}.tar" for name in names]
    assert kiln(offline, store, "images", "save", "base", "-o", tmp_path / "b.tar").returncode == 0
    assert (tmp_path / "b.tar").read_bytes() == archive_of(offline, "base")
    other = tmp_path / "x.tar"
    other.write_bytes(b"x")
    for code, words in (
        (2, ["save", "nothing", "-o", tmp_path]),
        (2, ["save", "base", "-o", other / "below"]),
        (2, ["load", tmp_path / "missing.tar"]),
        (2, ["load", tmp_path]),
        (23, ["load", other]),
        (20, ["load", tmp_path / "b.tar"]),
        (2, ["push"]),
    ):
        ended = kiln(offline, store, "images", *words)
        assert ended.returncode == code, (words, ended.stderr)
        assert "Traceback" not in ended.stderr
