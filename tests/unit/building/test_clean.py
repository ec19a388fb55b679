from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dead_owner import dead_tag
from toy_engine import ToyEngine, serve

from kiln.building.clean import clean
from kiln.core.lease import tagged_name
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.running.engine import OWNER_LABEL


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With one result and its blob, a ref, a partial download, a log, and a dead one's scratch."""
    store = Store(tmp_path / "store")
    store.add_bytes(b"content")
    store.put_result(StageResult("ab" * 32, "export", {}))
    store.set_ref("archive", "toy", {"url": "x"})
    (store.downloads / "half.part").write_bytes(b"half")
    (store.root / "logs").mkdir()
    (store.root / "logs" / "toy.log").write_text("log")
    (store.tmp / dead_tag()).mkdir()
    (store.tmp / dead_tag() / "left").write_bytes(b"over")
    (store.tmp / tagged_name()).mkdir()  # ours: in use
    return store


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyEngine]:
    with serve() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine


@pytest.mark.usefixtures("no_engine")
def test_only_leftovers_go_by_default(store: Store) -> None:
    assert clean(store, empty_store=False, drop_images=False) == {"scratch folders": 1}
    [scratch] = store.tmp.iterdir()
    assert scratch.name.split(".")[0] == tagged_name().split(".")[0]
    assert store.get_result("ab" * 32) is not None
    assert (store.downloads / "half.part").exists()
    assert clean(store, empty_store=False, drop_images=False) == {"scratch folders": 0}


@pytest.mark.usefixtures("no_engine")
def test_an_emptied_store_is_empty_and_usable(store: Store) -> None:
    assert clean(store, empty_store=True, drop_images=True) == {
        "scratch folders": 1,
        "stored files": 5,
    }
    assert [path for path in store.root.rglob("*") if path.is_file()] == []
    again = Store(store.root)
    assert again.get_result("ab" * 32) is None
    assert again.path(again.add_bytes(b"content")).read_bytes() == b"content"


def test_an_image_that_another_kiln_is_building_stays(store: Store, toy: ToyEngine) -> None:
    toy.image("raw-of-dead", {OWNER_LABEL: dead_tag()})
    toy.image("raw-of-unknown", {OWNER_LABEL: "12-34-ffffffff.0123abcd"})
    toy.image("raw-of-living", {OWNER_LABEL: tagged_name()})
    toy.image("sealed", {}, ("tflite-kiln/odapi:0123",))
    toy.container("dead", {OWNER_LABEL: dead_tag()}, "running")
    assert clean(store, empty_store=False, drop_images=False) == {
        "scratch folders": 1,
        "containers": 1,
        "unfinished images": 2,
    }
    assert set(toy.images) == {"raw-of-living", "sealed"}


def test_sealed_images_lose_our_names_only(store: Store, toy: ToyEngine) -> None:
    toy.image("sealed", {}, ("tflite-kiln/odapi:0123", "someone/keeps:this"))
    toy.image("other", {}, ("python:3.9",))
    removed = clean(store, empty_store=False, drop_images=True)
    assert removed["sealed images"] == 1
    assert toy.removed == ["tflite-kiln/odapi:0123"]


def test_podmans_names_of_sealed_images_are_ours_too(store: Store, toy: ToyEngine) -> None:
    name = "localhost/tflite-kiln/odapi:0123"
    toy.image("sealed", {}, (name, "localhost/someone/keeps:this"))
    assert clean(store, empty_store=False, drop_images=True)["sealed images"] == 1
    assert toy.removed == [name]
