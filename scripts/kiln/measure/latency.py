"""Measure how long an artefact takes on this machine's processor, under LiteRT.

All files are timed in one process of the image ``device`` (:mod:`stages.steps.latency`), round
after round, one inference of each. A machine that slows down for a while slows down all of them, so
the ratios hold even where the times do not. (Cache effects of the previous file are not visible:
the first and second of two inferences in a row took the same, within 2 %.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.core.digest import sha256_file
from kiln.core.errors import UsageError
from kiln.core.machine import cpu_name
from kiln.core.store import Store
from kiln.images.lock import locked_image
from kiln.measure.measurements import Figures
from kiln.project.closures import read_stage_code

if TYPE_CHECKING:
    from kiln.project.folders import Project
    from kiln.running.executor_protocol import OnEvent

FILE = "latency.json"
FIGURES = Figures(
    FILE, 1, "runs", {"model": str, "file": str, "sha256": str, "threads": int}, "latencies",
    "Remove it; measurements can be made again.",
)  # fmt: skip
STEP = "latency"
_STATISTICS = ("median_ms", "p90_ms", "min_ms", "mean_ms", "runs")
_FOREVER = 1e9  # seconds
BUSY = 0.5
"""Load average per processor above which the times deserve a warning."""


@dataclass(frozen=True)
class Artefact:
    """A file to time: ``model`` and ``variant`` are its names ("" where unknown)."""

    model: str
    variant: str
    path: Path


@dataclass(frozen=True)
class Latency:
    """The times of one file with one number of threads; times in milliseconds.

    ``load``: the machine's load average (1 minute) when the measurement began.
    """

    model: str
    variant: str
    file: str
    sha256: str
    threads: int
    median_ms: float
    p90_ms: float
    min_ms: float
    mean_ms: float
    runs: int
    warmup: int
    runtime: str
    cpu: str
    load: float


@dataclass(frozen=True)
class Measured:
    """The result of a measurement.

    Attributes:
        runs: the times of each file, with each number of threads.
        failed: path of a file -> why it has no times.
        saved: where the times were recorded, if they were.
    """

    runs: list[Latency]
    failed: dict[Path, str]
    saved: Path | None = None


def measure(
    project: Project,
    store: Store,
    artefacts: Sequence[Artefact],
    threads: Sequence[int],
    *,
    warmup: int = 5,
    runs: int = 30,
    seconds: float | None = None,
    on_event: OnEvent,
) -> Measured:
    """Time files on inputs of seeded noise, the same in every run, in the image ``device``.

    Args:
        project: whose image and stage code are used.
        store: where the image's packages are; it gets no results.
        artefacts: any ``.tflite`` files of fixed input shapes.
        threads: numbers of threads, one measurement each.
        warmup: rounds that are not counted.
        runs: rounds that are.
        seconds: instead of ``runs``: start rounds until so much time has passed (at least one).
        on_event: receives events of the image and of the stage.

    Raises:
        UsageError: a file cannot be read.
        KilnError: there is no engine, or the image cannot be had.
    """
    digests = {item.path: _digest(item.path) for item in artefacts}
    # Names of their own: two files may have one.
    names = {f"{number:04}.tflite": item for number, item in enumerate(artefacts)}
    load, cpu = os.getloadavg()[0], cpu_name()
    facts = _facts(
        project,
        store,
        {name: (digests[item.path], item.path) for name, item in names.items()},
        {"threads": [*threads], "warmup": warmup, "runs": runs, "seconds": seconds},
        on_event,
    )
    found = [
        Latency(
            model=each.model,
            variant=each.variant,
            file=each.path.name,
            sha256=digests[each.path],
            threads=entry["threads"],
            **{name: entry[name] for name in _STATISTICS},
            warmup=warmup,
            runtime=facts["runtime"],
            cpu=cpu,
            load=round(load, 2),
        )
        for entry in facts["times"]
        for each in (names[entry["file"]],)
    ]
    failed = {names[name].path: reason for name, reason in facts["failed"].items()}
    return Measured(found, failed)


def _facts(
    project: Project,
    store: Store,
    files: Mapping[str, tuple[str, Path]],
    params: Mapping[str, Any],
    on_event: OnEvent,
) -> Mapping[str, Any]:
    """Run the stage on files (name -> digest and path); return its facts."""
    from kiln.images.builder import Images
    from kiln.recipes.check_steps import DEVICE
    from kiln.recipes.steps import Files, Plan, lone_step
    from kiln.running.executor import Runner
    from kiln.running.limits import Limits

    images = Images.on_any_engine(project.docker, store, on_event)
    identity = locked_image(project.docker, DEVICE).identity
    code = read_stage_code(project.stages, store)
    models = Files({name: digest for name, (digest, _) in files.items()})
    step = lone_step(STEP, STEP, params, {"models": models}, image=identity, code=code)
    plan = Plan("bench-model", DEVICE, (step,), {STEP: STEP}, (), identity, code)
    with store.scratch() as scratch:
        # Not the user's store: a time that was measured is not a result to keep.
        runner = Runner(
            lambda: images.engine,
            Store(scratch / "results"),
            project.stages,
            on_event,
            lent=dict(files.values()),
        )
        limits = replace(Limits(), timeout=_FOREVER)  # a stage that hangs ends itself
        results = runner.run(plan, limits, lambda: images.ensure(DEVICE).tag)
    return results[STEP].facts


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from None


# --- the file in dist ----------------------------------------------------------------------


def save(dist: Path, runs: Sequence[Latency]) -> Path:
    """Add measurements to ``dist/latency.json``; one of the same file and threads is replaced.

    "The same" means the same digest. Entries with the same model and file name but another digest
    are about a file that no longer exists, and are removed.

    Returns:
        The file that was written.

    Raises:
        UsageError: a file of that name is not kiln's, or ``dist`` is not a folder.
        DiskFullError: no space left; the file is as it was.
    """
    entries = {(entry["sha256"], entry["threads"]): entry for entry in load(dist)}
    digests = {(item.model, item.file): item.sha256 for item in runs}
    for key, entry in list(entries.items()):
        if digests.get((entry["model"], entry["file"]), entry["sha256"]) != entry["sha256"]:
            del entries[key]
    entries.update({(item.sha256, item.threads): asdict(item) for item in runs})
    ordered = sorted(
        entries.values(), key=lambda entry: (entry["model"], entry["file"], entry["threads"])
    )
    return FIGURES.write(dist, ordered)


def load(dist: Path) -> list[dict[str, Any]]:
    """Read the entries of ``dist/latency.json``; none where there is no such file.

    Raises:
        UsageError: the file is damaged, or of another schema.
    """
    return FIGURES.read(dist)
