"""``kiln accuracy``: figures before and after conversion, killed in the middle, and fed wrongly."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import accuracy
import pytest
import scenes
from support import Ended, Kiln, containers_of, running

from kiln.core.digest import sha256_file
from kiln.core.store import Store
from kiln.running.engine import Engine

MODEL = "centernet_mobilenet_v2_fpn_shapes"
COUNT, CHUNK = 24, 12
LEAST = 0.5
#: Of the scenes, twice as wide as high: this model was trained letterboxed.
HEIGHT, WIDTH = 192, 384
#: Of the scenes; other tests put theirs, with lower seeds, into the store.
FIRST_SEED = scenes.VALIDATION + 100_000


@pytest.fixture(scope="module")
def data_set(area: Path) -> Path:
    """Scenes that the sample was neither trained nor calibrated on, and one that is lost."""
    made = {
        f"{number:03}.png": scenes.scene(FIRST_SEED + number, HEIGHT, WIDTH)
        for number in range(COUNT + 1)
    }
    names = {number: name.upper() for number, name in scenes.CLASSES.items()}
    # Ids are part of keys: these have never been measured, whatever store the session has.
    root = accuracy.data_set(made, names, area / "data set", first=secrets.randbelow(1 << 40))
    (root / "images" / f"{COUNT:03}.png").unlink()
    return root


def stages(ended: Ended) -> set[tuple[str, str]]:
    return {(e["id"], e["state"]) for e in ended.events if e["event"] == "stage"}


def test_measured_killed_and_measured_again(
    shared: Kiln, engine: Engine, data_set: Path, tmp_path: Path
) -> None:
    command = ("accuracy", MODEL, "--coco", data_set, "--variant", "float32", "--chunk", str(CHUNK))
    with running(shared, *command, "--jobs", "1") as run:
        run.wait_for(event="stage", id="float32-001", state="finished")
        run.wait_for(event="stage", id="source-002", state="started")
        run.process.kill()
        killed = run.process.pid

    saved = tmp_path / "accuracy.json"
    # What is left of it is divided between two containers.
    ended = shared(*command, "--json", "--save", saved, "--jobs", "2").ok()
    seen = stages(ended)
    for thing in ("source", "float32"):
        assert (f"{thing}-001", "cached") in seen
        assert (f"{thing}-001", "started") not in seen
        assert (f"{thing}-002", "finished") in seen
    assert not containers_of(engine, killed)
    assert shared.leftovers() == []
    store = Store(shared.store)
    assert not [p for p in (data_set / "images").iterdir() if store.has(sha256_file(p))]

    (told,) = [e["message"] for e in ended.events if "cannot be used" in e.get("message", "")]
    assert f"1 of {COUNT + 1}" in told
    assert f"{COUNT:03}.png (missing)" in told
    results: dict[str, Any] = json.loads(saved.read_text("utf-8"))["results"]
    assert results["source"]["ap"] > LEAST
    assert abs(results["source"]["ap"] - results["float32"]["ap"]) < 0.01
    events = {e["what"]: e for e in ended.events if e["event"] == "accuracy"}
    assert {what: e["ap"] for what, e in events.items()} == {w: r["ap"] for w, r in results.items()}
    assert {e["images"] for e in events.values()} == {COUNT}
    low, high = events["source"]["intervals"]["ap"]
    assert low <= results["source"]["ap"] <= high
    assert 0.02 < high - low < 0.5
    low, high = events["float32"]["difference_interval"]
    assert low <= events["float32"]["difference"] <= high
    assert high - low < 0.02

    # Everything is known by now: no engine is asked, and half of the images are measured anew.
    nowhere = shared.but(engine="unix:///nowhere/docker.sock")
    again = nowhere(*command, "--images", str(CHUNK)).ok()
    assert [line.split()[0] for line in again.out.splitlines()[:3]] == [MODEL, "source", "float32"]
    assert f"Measured on {CHUNK} images and 4 of the data set's 4 classes." in again.out


def test_other_names_and_another_fit(shared: Kiln, data_set: Path, tmp_path: Path) -> None:
    saved = tmp_path / "accuracy.json"
    # The same chunks as above, so that nothing is run twice.
    command = ("accuracy", MODEL, "--coco", data_set, "--variant", "float32", "--save", saved)
    command += ("--chunk", str(CHUNK))
    shared(*command).ok()
    results = json.loads(saved.read_text("utf-8"))["results"]

    # Other names give other figures of the same detections: no engine is asked.
    nowhere = shared.but(engine="unix:///nowhere/docker.sock")
    exchanged = ("--alias", "circle=SQUARE", "--alias", "square=circle")
    nowhere(*command, *exchanged).ok()
    told = json.loads(saved.read_text("utf-8"))
    assert told["dataset"]["aliases"] == {"circle": "SQUARE", "square": "circle"}
    assert told["results"]["source"]["ap"] < 0.6 * results["source"]["ap"]

    # Stretched, it finds less. The source is not run again: nobody stretches for it.
    stretched = shared(*command, "--fit", "stretch", "--json").ok()
    told = json.loads(saved.read_text("utf-8"))
    assert told["fit"] == "stretch"
    assert told["results"]["source"] == results["source"]
    assert told["differences"]["float32"]["interval"][1] < -0.05
    assert not told["differences"]["float32"]["noise"]
    assert {name for name, state in stages(stretched) if state == "started"} == {
        "float32-001",
        "float32-002",
    }


def test_another_data_set(shared: Kiln, data_set: Path, tmp_path: Path) -> None:
    table = json.loads((data_set / "instances.json").read_text("utf-8"))
    table["categories"] = [{**c, "name": f"not a {c['name']}"} for c in table["categories"]]
    (tmp_path / "instances.json").write_text(json.dumps(table))
    (tmp_path / "images").symlink_to(data_set / "images")
    command = ("accuracy", MODEL, "--coco", tmp_path, "--variant", "float32")
    shared(*command).refused(16, "no class in common", "circle", "not a CIRCLE")
    # Names that fit, and no image at all.
    (tmp_path / "images").unlink()
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_bytes((data_set / "instances.json").read_bytes())
    shared(*command).refused(17, f"{COUNT + 1} of {COUNT + 1}", "missing")
    shared("accuracy", MODEL, "--coco", tmp_path / "images").refused(17, "val2017 and images")
    shared(*command, "--dist", tmp_path).refused(2, "no float32")
