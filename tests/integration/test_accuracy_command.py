"""``kiln accuracy``: figures before and after conversion, and killed in the middle."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import accuracy
import pytest
import scenes
from support import SAMPLES, Ended, Kiln, containers_of, running

from kiln.core.digest import sha256_file
from kiln.core.store import Store
from kiln.running.engine import Engine

MODEL = "centernet_mobilenet_v2_fpn_shapes"
COUNT, CHUNK = 24, 12
LEAST = 0.5
#: Of the scenes; other tests put theirs, with lower seeds, into the store.
FIRST_SEED = scenes.VALIDATION + 100_000


@pytest.fixture(scope="module")
def data_set(area: Path) -> Path:
    """Scenes that the sample was neither trained nor calibrated on, and one that is lost."""
    side = SAMPLES[MODEL]
    made = {
        f"{number:03}.png": scenes.scene(FIRST_SEED + number, side, side)
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
    with running(shared, *command) as run:
        run.wait_for(event="stage", id="float32-001", state="finished")
        run.wait_for(event="stage", id="source-002", state="started")
        run.process.kill()
        killed = run.process.pid

    saved = tmp_path / "accuracy.json"
    ended = shared(*command, "--json", "--save", saved).ok()
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

    # Everything is known by now: no engine is asked, and half of the images are measured anew.
    nowhere = shared.but(engine="unix:///nowhere/docker.sock")
    again = nowhere(*command, "--images", str(CHUNK)).ok()
    rows = [line.split() for line in again.out.splitlines()]
    assert [row[0] for row in rows] == [MODEL, "source", "float32"]
    assert {row[5] for row in rows[1:]} == {str(CHUNK)}


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
