"""A second build with nothing changed does nothing, and does not even look for an engine."""

from __future__ import annotations

import time
from typing import Any

from support import SAMPLE, Kiln

from kiln.running.engine import OWNER_LABEL, Engine


def test_second_build_does_nothing(sample: Any, engine: Engine) -> None:
    kiln: Kiln = sample.kiln
    before = _stamps(kiln)
    since = time.time()
    ended = kiln("build", SAMPLE, "--json").ok()
    until = time.time()
    artefacts = [event for event in ended.events if event["event"] == "artefact"]
    assert len(artefacts) == 4
    assert not any(event["changed"] for event in artefacts)
    states = {event["state"] for event in ended.events if event["event"] == "stage"}
    assert states == {"cached"}
    assert _stamps(kiln) == before
    # Others may use the engine meanwhile: ours would carry this process's label.
    events = engine.client.events(
        since=since - 1, until=until + 1, decode=True, filters={"label": OWNER_LABEL}
    )
    labels = [event["Actor"]["Attributes"][OWNER_LABEL] for event in events]
    assert not [label for label in labels if label.startswith(f"{ended.pid}-")]
    print(f"a build with nothing to do: {ended.seconds:.2f} s")


def test_it_needs_no_engine(sample: Any) -> None:
    kiln: Kiln = sample.kiln.but(engine="unix:///nowhere/docker.sock")
    assert "(0 stages run" in kiln("build", SAMPLE).ok().out


def test_a_plan_says_so(sample: Any) -> None:
    kiln: Kiln = sample.kiln.but(engine="unix:///nowhere/docker.sock")
    (plan,) = kiln("plan", SAMPLE, "--json").ok().events
    assert {step["state"] for step in plan["steps"]} == {"stored"}
    assert len(plan["steps"]) > 10


def test_dist_is_made_again_from_the_store(sample: Any, shared: Kiln) -> None:
    ended = shared("build", SAMPLE, "--json").ok()
    assert {event["state"] for event in ended.events if event["event"] == "stage"} == {"cached"}
    for path in sorted(sample.folder.glob("*.tflite")):
        again = shared.dist / SAMPLE / path.name
        assert again.read_bytes() == path.read_bytes()
        assert again.stat().st_nlink == 1  # whoever edits dist must not reach into the store
    record = "conversion.json"
    assert (shared.dist / SAMPLE / record).read_bytes() == (sample.folder / record).read_bytes()


def test_a_damaged_dist_is_repaired(sample: Any, shared: Kiln) -> None:
    shared("build", SAMPLE).ok()
    path = shared.dist / SAMPLE / f"{SAMPLE}_int8.tflite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    shared("verify", shared.dist).refused(41, path.name)
    shared("build", SAMPLE).ok()
    assert path.read_bytes() == sample.artefact("int8").read_bytes()
    shared("verify", shared.dist).ok()


def _stamps(kiln: Kiln) -> dict[str, tuple[int, int]]:
    found = {}
    for path in (kiln.dist, *kiln.dist.rglob("*")):
        about = path.stat()
        found[str(path)] = (about.st_mtime_ns, about.st_ino)
    return found
