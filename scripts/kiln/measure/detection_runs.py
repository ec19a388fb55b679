"""Run the source and the artefacts on all chunks of a data set, several containers at a time.

Running one subject on one chunk is a step. Which steps share a container is no part of their keys,
so it may depend on the number of processors: a container takes some seconds to start, and steps
that share one share this.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from kiln.core import machine
from kiln.core.stage_result import StageResult
from kiln.measure.coco import DataSet
from kiln.measure.images import Chunk
from kiln.measure.report import SOURCE
from kiln.measure.workbench import Workbench
from kiln.recipes.plan import Files, Plan, Step
from kiln.recipes.recipe import ImageName, Recipe
from kiln.recipes.steps import lone_step
from kiln.running.executor import Runner
from kiln.running.limits import Limits, limits_of

#: Duration of the source's steps in that of an artefact's: 1.5 an image for the samples, and a
#: longer start (docs/accuracy.md). Only the balance between containers depends on it.
_SOURCE_WEIGHT = 2


#: Memory to count on for a container, in bytes: three times what the samples take.
_MEMORY = 2 << 30


@dataclass(frozen=True)
class Subject:
    """Something that detects: its stage, where the stage runs, and its input.

    Attributes:
        artefact: the SHA-256 of the file; None for the source.
    """

    name: str
    image: ImageName
    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Files]
    artefact: str | None = None


@dataclass(frozen=True)
class _Task:
    """Steps that share a container, by subject; all of one chunk."""

    image: ImageName
    chunk: Chunk
    steps: Mapping[str, Step]


def default_jobs() -> int:
    """Return how many containers this machine can run at a time."""
    return machine.room_for(_MEMORY)


def run(
    bench: Workbench,
    recipe: Recipe,
    subjects: Sequence[Subject],
    chunks: Sequence[Chunk],
    data: DataSet,
    jobs: int,
) -> dict[tuple[str, int], StageResult]:
    """Return the results by subject's name and chunk's number; what the store has is not run.

    Args:
        jobs: containers at a time.

    Raises:
        KilnError: of the first step that failed; the others are stopped, and what is finished
            is kept.
    """
    groups = [
        _Task(image, chunk, _steps(bench, [s for s in subjects if s.image == image], chunk))
        for chunk in chunks
        for image in dict.fromkeys(subject.image for subject in subjects)
    ]
    sizes = {step.id: len(g.chunk.pictures) for g in groups for step in g.steps.values()}
    overall = Overall(bench.builder.on_event, sizes)

    def tell(event: str, **fields: Any) -> None:
        bench.builder.check_stop()
        overall.event(event, **fields)

    lent = {digest: data.path(p) for chunk in chunks for p, digest in chunk.digests.items()}
    runner = bench.runner(tell, lent)
    tasks = _divided(groups, runner, jobs)
    found: dict[tuple[str, int], StageResult] = {}
    pool = ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="chunk")
    running = [pool.submit(_run, bench, recipe, runner, task) for task in tasks]
    try:
        for ended in as_completed(running):
            found.update(ended.result())
    except BaseException:  # a failure, or Ctrl-C
        bench.builder.stop(pool, running)
        raise
    pool.shutdown()
    bench.builder.on_event("model", model=recipe.name, state="measured")
    return found


def _steps(bench: Workbench, subjects: Sequence[Subject], chunk: Chunk) -> dict[str, Step]:
    return {
        subject.name: lone_step(
            f"{subject.name}-{chunk.number:03}",
            subject.stage,
            subject.params,
            {**subject.inputs, "images": chunk.images},
            image=bench.identity(subject.image),
            code=bench.code,
        )
        for subject in subjects
    }


def _divided(groups: Sequence[_Task], runner: Runner, jobs: int) -> list[_Task]:
    """Divide the steps into tasks: at least as many as can run at a time, where possible."""
    tasks = []
    todo = []
    for group in groups:
        known = runner.known(_plan("", group))
        new = {name: step for name, step in group.steps.items() if step.id not in known}
        old = {name: step for name, step in group.steps.items() if name not in new}
        if old:
            tasks.append(replace(group, steps=old))
        if new:
            todo.append(replace(group, steps=new))
    parts = -(-jobs // max(1, len(todo)))
    for group in todo:
        tasks += [replace(group, steps=steps) for steps in shares(group.steps, parts)]
    return tasks


def shares(steps: Mapping[str, Step], count: int) -> list[dict[str, Step]]:
    """Divide steps by subject into ``count`` shares of about the same duration, or fewer.

    >>> [list(share) for share in shares(dict.fromkeys(["source", "a", "b", "c"]), 2)]
    [['source', 'c'], ['a', 'b']]
    """
    found: list[dict[str, Step]] = [{} for _ in range(min(count, len(steps)))]
    loads = [0] * len(found)
    for name in sorted(steps, key=lambda name: name != SOURCE):
        least = loads.index(min(loads))
        found[least][name] = steps[name]
        loads[least] += _SOURCE_WEIGHT if name == SOURCE else 1
    return found


def _run(
    bench: Workbench, recipe: Recipe, runner: Runner, task: _Task
) -> dict[tuple[str, int], StageResult]:
    plan = _plan(recipe.name, task)
    bounds = with_time_for(recipe, len(task.steps))
    # Two kilns that measure the same model divide the work, and do nothing twice.
    with bench.lock(f"accuracy-{recipe.name}-{plan.steps[0].id}", recipe.name):
        results = runner.run(plan, bounds, functools.partial(bench.tag, task.image))
    return {(name, task.chunk.number): results[step.id] for name, step in task.steps.items()}


def _plan(model: str, task: _Task) -> Plan:
    wanted = {name: step.id for name, step in task.steps.items()}
    return Plan(model, task.image, tuple(task.steps.values()), wanted)


def with_time_for(recipe: Recipe, stages: int) -> Limits:
    """Return the recipe's limits, with its time for each of a container's stages."""
    limits = limits_of(recipe)
    return replace(limits, timeout=limits.timeout * max(1, stages))


class Overall:
    """Forwards events, with each step's progress as progress of the whole measurement.

    Args:
        sizes: images of each step, by its id.
    """

    def __init__(self, on_event: Callable[..., None], sizes: Mapping[str, int]) -> None:
        self._on_event, self._sizes = on_event, sizes
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()

    def event(self, event: str, **fields: Any) -> None:
        """Forward one event."""
        step_id = str(fields.get("id"))
        with self._lock:
            if event == "stage" and step_id in self._sizes:
                if fields["state"] in ("finished", "cached"):
                    self._done[step_id] = self._sizes[step_id]
                elif fields["state"] == "progress" and isinstance(fields.get("done"), int):
                    self._done[step_id] = fields["done"]
                    done, total = sum(self._done.values()), sum(self._sizes.values())
                    message = f"{done:,} of {total:,}, {fields.get('message', '')}"
                    fields |= {"done": done, "total": total, "message": message}
        self._on_event(event, **fields)
