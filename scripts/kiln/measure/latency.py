"""Measure how long an artefact takes on this machine's processor, under LiteRT.

All files are timed in one separate process (:mod:`kiln.checks.worker_process`), round after round,
one inference of each. A machine that slows down for a while slows down all of them, so the ratios
hold even where the times do not. (Cache effects of the previous file are not visible: the first and
second of two inferences in a row took the same, within 2 %.)
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiln.checks import worker_process
from kiln.checks.runtime_worker import LITERT
from kiln.core.digest import sha256_file
from kiln.core.errors import UsageError
from kiln.core.machine import cpu_name
from kiln.measure.measurements import Figures

FILE = "latency.json"
FIGURES = Figures(
    FILE, 1, "runs", {"model": str, "file": str, "sha256": str, "threads": int}, "latencies",
    "Remove it; measurements can be made again.",
)  # fmt: skip
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
    """The result of a measurement: ``failed`` maps a path to why it has no times."""

    runs: list[Latency]
    failed: dict[Path, str]


def measure(
    artefacts: Sequence[Artefact],
    threads: Sequence[int],
    *,
    warmup: int = 5,
    runs: int = 30,
    seconds: float | None = None,
    silence: float = worker_process.SILENCE,
) -> Measured:
    """Time files on inputs of seeded noise, the same in every run.

    Args:
        artefacts: any ``.tflite`` files of fixed input shapes.
        threads: numbers of threads, one measurement each. They are not interleaved: idle workers
            of a thread pool spin for a while, which would slow down the next file.
        warmup: rounds that are not counted.
        runs: rounds that are.
        seconds: instead of ``runs``: start rounds until so much time has passed (at least one).
        silence: most seconds without a message from the process.

    Raises:
        UsageError: LiteRT is not installed, or a file cannot be read.
    """
    digests = {item.path: _digest(item.path) for item in artefacts}
    load, cpu = os.getloadavg()[0], cpu_name()
    failed: dict[Path, str] = {}
    found: list[Latency] = []
    for count in threads:
        item = {"task": "time", "runtime": LITERT, "threads": count, "warmup": warmup}
        item |= {"runs": runs, "seconds": seconds}
        left = [each.path for each in artefacts if each.path not in failed]
        result = _times(item, left, failed, silence)
        for each in artefacts:
            times = result.get("times", {}).get(str(each.path.absolute()))
            if times:
                found.append(
                    Latency(
                        model=each.model,
                        variant=each.variant,
                        file=each.path.name,
                        sha256=digests[each.path],
                        threads=count,
                        **statistics_of(times),
                        warmup=warmup,
                        runtime=result["runtime"],
                        cpu=cpu,
                        load=round(load, 2),
                    )
                )
    return Measured(found, failed)


def statistics_of(times: Sequence[float]) -> dict[str, Any]:
    """Compute ``runs``, ``median_ms``, ``p90_ms`` (interpolated), ``min_ms``, ``mean_ms``.

    >>> statistics_of([4.0, 1.0, 2.0, 3.0, 10.0])["median_ms"]
    3.0
    """
    deciles = statistics.quantiles(times, n=10, method="inclusive") if len(times) > 1 else [*times]
    figures = {
        "median_ms": statistics.median(times),
        "p90_ms": deciles[-1],
        "min_ms": min(times),
        "mean_ms": statistics.fmean(times),
    }
    return {**{name: round(value, 4) for name, value in figures.items()}, "runs": len(times)}


def _times(
    item: Mapping[str, Any], paths: Sequence[Path], failed: dict[Path, str], silence: float
) -> dict[str, Any]:
    """Return the worker's result for the files that can be timed; add the others to ``failed``."""
    left = {str(path.absolute()): path for path in paths}
    while left:
        (outcome,) = worker_process.run([{**item, "models": list(left)}], silence=silence)
        if not isinstance(outcome, worker_process.Died):
            if "times" not in outcome:
                words = [outcome[name] for name in ("unimportable", "failed") if name in outcome]
                reason = words[0] if words else "it is missing"
                raise UsageError(
                    f"Latencies are measured in {LITERT}, which cannot be used: {reason}.",
                    "Install ai-edge-litert and name the Python that has it in "
                    f"{worker_process.PYTHON_VARIABLE}. In a checkout, `make runtimes` does that.",
                )
            for name, reason in outcome["not_timed"].items():
                failed[left[name]] = reason
            return outcome
        # The file it was working on is the culprit; without one, nothing more is known.
        for name in [outcome.at] if outcome.at in left else list(left):
            failed[left.pop(name)] = outcome.reason
    return {}


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
