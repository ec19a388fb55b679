"""How the steps of a measurement share containers; real ones are in tests/integration."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_plan import recipe
from toy_project import make_project

from kiln.building.build import Builder
from kiln.core.errors import CancelledError, StageFailedError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.measure import detection_runs
from kiln.measure.coco import DataSet, Picture
from kiln.measure.detection_runs import Subject
from kiln.measure.images import Chunk
from kiln.measure.workbench import Workbench
from kiln.recipes.plan import Plan

DATA = DataSet(Path("photos"), Path("instances.json"), "ab", (), (), {}, "photos")
NAMES = ("source", "float32", "float16", "int8")
SUBJECTS = [Subject(name, "odapi", "detect", {"subject": name}, {}) for name in NAMES]


class Containers:
    """In place of the runner: notes which steps share a container, and does ``work`` in it."""

    def __init__(self, store: Store, work: Callable[[Plan], object] = lambda plan: None) -> None:
        self.store, self.work = store, work
        self.ran: list[list[str]] = []

    def known(self, plan: Plan) -> dict[str, StageResult]:
        found = {step.id: self.store.get_result(step.key) for step in plan.steps}
        return {name: result for name, result in found.items() if result is not None}

    def run(self, plan: Plan, limits: Any, image: Callable[[], str]) -> dict[str, StageResult]:
        results = self.known(plan)
        todo = [step for step in plan.steps if step.id not in results]
        if todo:
            self.ran.append([step.id for step in todo])
            self.work(plan)
        for step in todo:
            results[step.id] = StageResult(step.key, step.stage, {}, {}, 1.0, 1)
            self.store.put_result(results[step.id])
        return results


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    project = make_project(tmp_path / "project")
    store = Store(tmp_path / "store")
    return Workbench(Builder(project, store, tmp_path / "dist", lambda event, **fields: None))


def chunks(count: int) -> list[Chunk]:
    return [
        Chunk(number, {Picture(number, f"{number}.jpg", 9, 9): f"{number:064}"})
        for number in range(1, count + 1)
    ]


def run(
    bench: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    jobs: int,
    work: Callable[[Plan], object] = lambda plan: None,
    subjects: list[Subject] = SUBJECTS,
) -> list[list[str]]:
    """The steps that shared a container, by container."""
    containers = Containers(bench.store, work)
    monkeypatch.setattr(bench, "runner", lambda tell, lent: containers)
    found = detection_runs.run(bench, recipe(), subjects, chunks(count), DATA, jobs)
    wanted = {(s.name, number) for s in subjects for number in range(1, count + 1)}
    assert found.keys() == wanted
    return sorted(containers.ran)


def test_one_container_for_each_chunk(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(bench, monkeypatch, 2, 2) == [
        [f"{name}-001" for name in NAMES],
        [f"{name}-002" for name in NAMES],
    ]
    assert run(bench, monkeypatch, 2, 2) == []


def test_one_chunk_is_divided(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source takes twice as long as a file."""
    assert run(bench, monkeypatch, 1, 2) == [
        ["float32-001", "float16-001"],
        ["source-001", "int8-001"],
    ]


def test_at_most_one_container_for_each_step(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(bench, monkeypatch, 1, 64) == [[f"{name}-001"] for name in sorted(NAMES)]


def test_only_what_is_missing_is_divided(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bench, monkeypatch, 3, 1, subjects=SUBJECTS[:2])
    run(bench, monkeypatch, 2, 1)
    assert run(bench, monkeypatch, 3, 2) == [["float16-003"], ["int8-003"]]


def test_two_images_are_two_containers(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of the other image; both read the same chunk."""
    monkeypatch.setattr(bench, "identity", lambda image: f"sha256:{image}")
    subjects = [Subject("source", "modelmaker", "detect", {}, {}), *SUBJECTS[1:]]
    ran = run(bench, monkeypatch, 1, 1, subjects=subjects)
    assert ran == [[f"{name}-001" for name in NAMES[1:]], ["source-001"]]


def test_containers_run_at_the_same_time(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other two; were they in turn, nobody would come."""
    together = threading.Barrier(3, timeout=30)
    assert len(run(bench, monkeypatch, 3, 3, lambda plan: together.wait())) == 3


def test_never_more_than_jobs(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most = threading.Lock(), [], []

    def work(plan: Plan) -> None:
        with lock:
            running.append(plan)
            most.append(len(running))
        threading.Event().wait(0.02)
        with lock:
            running.remove(plan)

    run(bench, monkeypatch, 9, 2, work)
    assert max(most) == 2


def test_a_failure_stops_the_others(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that runs is told to stop, and the third, if it has begun."""
    stopped: list[str] = []
    begun = threading.Event()

    def work(plan: Plan) -> None:
        if plan.steps[0].id.endswith("-001"):
            begun.wait(30)
            raise StageFailedError("It broke.")
        begun.set()
        for _ in range(3000):
            threading.Event().wait(0.01)
            try:
                bench.builder.check_stop()
            except CancelledError:
                stopped.append(plan.steps[0].id)
                raise

    with pytest.raises(StageFailedError, match="It broke"):
        run(bench, monkeypatch, 3, 2, work)
    assert "source-002" in stopped


def test_the_time_limit_is_for_each_stage() -> None:
    bounded = detection_runs.with_time_for(
        recipe(variants=["float32"], limits={"timeout": "90s"}), 3
    )
    assert bounded.timeout == 270
    assert detection_runs.with_time_for(recipe(variants=["float32"]), 2).timeout == 7200


def test_progress_is_that_of_the_whole() -> None:
    seen: list[dict[str, Any]] = []
    overall = detection_runs.Overall(
        lambda event, **fields: seen.append({"event": event, **fields}),
        {"source-001": 10, "int8-001": 10, "source-002": 4, "int8-002": 4},
    )
    overall.event("stage", id="source-001", state="cached")
    overall.event("stage", id="int8-001", state="progress", done=3, total=10, message="a.jpg")
    overall.event("stage", id="int8-001", state="finished", seconds=1)
    overall.event("stage", id="source-002", state="progress", done=4, total=4)
    overall.event("stage", id="int8-002", state="progress", done=1, total=4)
    overall.event("image", image="odapi", phase="build")
    assert [(e["done"], e["total"]) for e in seen if e.get("state") == "progress"] == [
        (13, 28),
        (24, 28),
        (25, 28),
    ]
    assert seen[1]["message"] == "13 of 28, a.jpg"
    assert seen[-1] == {"event": "image", "image": "odapi", "phase": "build"}
