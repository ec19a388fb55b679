"""An engine elsewhere: a container's files are here only when it has ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_container import OK, Container, Doorman

from kiln.core.errors import StageFailedError, StageOutputError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.recipes.steps import Files, Output, Plan, StepList
from kiln.running.engine import Outcome
from kiln.running.executor import Runner
from kiln.running.limits import Limits

STEPS = ("first", "second")


def write(container: Container, step: str) -> None:
    """A finished step's files, without a word."""
    place = container.outputs / step / "files"
    place.mkdir(parents=True)
    (place / "model.tflite").write_text(f"made by {step}")
    report = {"status": "ok", "facts": {}, "seconds": 1.5, "peak_rss": 1 << 20}
    (container.outputs / step / "result.json").write_text(json.dumps(report))


class Bench:
    """A store, and a plan of two steps in one container."""

    def __init__(self, root: Path) -> None:
        self.store, self.code = Store(root / "store"), root / "stages"
        self.code.mkdir()
        steps = StepList(f"sha256:{'1' * 64}", StageCode("2" * 64))
        data = Files({"": self.store.add_bytes(b"data")})
        steps.add("first", "convert", {}, {"saved_model": data})
        steps.add("second", "convert", {}, {"model": Output("first", "model.tflite")})
        ordered = tuple(steps.steps.values())
        self.plan = Plan("toy", "odapi", ordered, {name: name for name in STEPS}, ())

    def run(self, play: Callable[[Container], Outcome]) -> dict[str, StageResult]:
        door: Any = Doorman(play, copies_files=True)
        runner = Runner(lambda: door, self.store, self.code, lambda *_, **__: None)
        return runner.run(self.plan, Limits(), lambda: "toy:1")

    def kept(self) -> set[str]:
        return {step.id for step in self.plan.steps if self.store.get_result(step.key)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def late(container: Container) -> Outcome:
    for step in STEPS:
        container.event("finished", step, seconds=1.5, peak_rss=1 << 20)
        assert list(container.outputs.iterdir()) == []
    for step in STEPS:
        write(container, step)
    container.say(b"")
    return OK


def test_files_are_stored_when_the_container_has_ended(bench: Bench) -> None:
    results = bench.run(late)
    for step in STEPS:
        found = bench.store.path(results[step].files["model.tflite"].sha256).read_text()
        assert found == f"made by {step}"


def test_a_finished_step_is_kept_though_the_next_one_fails(bench: Bench) -> None:
    def play(container: Container) -> Outcome:
        container.event("finished", "first", seconds=1.5, peak_rss=1 << 20)
        write(container, "first")
        container.say(b"")
        return Outcome(1, False, False, "the log")

    with pytest.raises(StageFailedError, match="toy, stage second"):
        bench.run(play)
    assert bench.kept() == {"first"}


def test_files_that_must_not_be_read_are_refused_as_ever(bench: Bench) -> None:
    def play(container: Container) -> Outcome:
        outcome = late(container)
        (container.outputs / "second" / "files" / "model.tflite").unlink()
        (container.outputs / "second" / "files" / "model.tflite").symlink_to("/etc/passwd")
        return outcome

    with pytest.raises(StageOutputError, match=r"toy: second/files/model\.tflite was not taken"):
        bench.run(play)
    assert bench.kept() == {"first"}
