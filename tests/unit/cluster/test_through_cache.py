"""Contents of a plan travel through a cache: two stores, one folder between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.cache.opening import CACHE_VARIABLE
from kiln.cluster.transfer import SharedStore, ThroughCache, inputs_of, transfers
from kiln.core.errors import ClusterError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.recipes.steps import Files, Plan, lone_step
from kiln.signing.keys import create_key

IMAGE = f"sha256:{'1' * 64}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, folder.as_uri())
    return folder


def way_of(store: Store) -> ThroughCache:
    way = next(iter(transfers(store, print).values()))
    assert isinstance(way, ThroughCache)
    return way


def planned(store: Store) -> Plan:
    inputs = {"images": Files({"cat.png": store.add_bytes(b"cat"), "dog": store.add_bytes(b"d")})}
    code = StageCode("2" * 64)
    step = lone_step("previews", "previews", {}, inputs, image=IMAGE, code=code)
    return Plan("toy", "odapi", (step,), {}, ("previews",), IMAGE, code)


def test_inputs_and_results_travel(place: Path, tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    driver, worker = way_of(here), way_of(there)
    assert driver.name == worker.name
    plan = planned(here)
    driver.receive(plan)  # asked before there was anything
    driver.send(plan)
    worker.fetch(plan)
    assert all(map(there.has, inputs_of(plan)))

    blob = there.add_new([b"a preview"])
    result = StageResult(plan.steps[0].key, "previews", {"cat.jpg": blob}, {"images": 1}, 2.0)
    there.put_result(result)
    worker.shared.offer(result)
    worker.deliver({"previews": result})
    assert worker.shared.sent.results == 1  # once, though it was offered, too
    driver.receive(plan)
    assert here.get_result(result.key) == result
    assert here.path(blob.sha256).read_bytes() == b"a preview"


def test_who_is_not_trusted_gives_no_inputs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Store(tmp_path / "here")
    plan = planned(here)
    way_of(here).send(plan)
    create_key(tmp_path / "keys" / "other.pem")
    monkeypatch.setenv("KILN_SIGNING_KEY", str(tmp_path / "keys" / "other.pem"))
    stranger = Store(tmp_path / "there")
    with pytest.raises(ClusterError, match="cannot have its inputs") as caught:
        way_of(stranger).fetch(plan)
    assert "trust the other's key" in caught.value.remedy
    assert not any(map(stranger.has, inputs_of(plan)))


def test_other_caches_are_other_ways(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    first = way_of(store).name
    (tmp_path / "other").mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, (tmp_path / "other").as_uri())
    assert way_of(store).name != first
    monkeypatch.delenv(CACHE_VARIABLE)
    (way,) = transfers(store, print).values()
    assert isinstance(way, SharedStore)
