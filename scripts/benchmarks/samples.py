"""All samples, all variants: two models at a time beside one at a time, and what checks cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Row, Run
from kiln.project import Project

#: Stages that check; a conversion without them would be the rest.
CHECKS = ("previews", "reference", "check-", "task-library", "runtimes")
BOUND = 0.35


def measure(project: Project, folder: Path, rounds: int) -> list[Row]:
    """``--jobs 2`` against ``--jobs 1``, images at hand, an empty store each time."""

    def kiln(jobs: int) -> Run:
        common.empty(folder)
        return common.build(project, folder, ["--samples", "--jobs", str(jobs)])

    shares: dict[str, list[tuple[float, float]]] = {}

    def checked() -> Run:
        common.empty(folder)
        arguments = ["build", "--samples", "--dist", str(folder / "dist")]
        run, events = common.kiln(project, folder, arguments)
        for model, pair in _split(events).items():
            shares.setdefault(model, []).append(pair)
        return run

    ways = {"--jobs 2": lambda: kiln(2), "--jobs 1": checked}
    runs = common.take_turns(rounds, ways)
    rows = common.compared(
        "all samples, --jobs 2 beside --jobs 1", runs["--jobs 2"], runs["--jobs 1"], 1.0,
        memory=False,
    )  # fmt: skip
    together = [
        (sum(checks for checks, _ in models), sum(rest for _, rest in models))
        for models in zip(*shares.values(), strict=True)
    ]
    for model, pairs in {**shares, "all samples": together}.items():
        checks, rest = (statistics.median(part) for part in zip(*pairs, strict=True))
        rows.append(
            {"what": f"checks of {model} beside conversion, s", "kiln": checks, "other": rest,
             "ratio": statistics.median(a / b for a, b in pairs), "bound": BOUND}
        )  # fmt: skip
    return [*rows, _verified(project, folder, rounds)]


def _verified(project: Project, folder: Path, rounds: int) -> Row:
    """``kiln verify`` of the release that is there now, its start included."""
    arguments = ["verify", str(folder / "dist")]
    done = [common.kiln(project, folder, arguments) for _ in range(rounds)]
    files = sum(event["file"].endswith(".tflite") for event in done[0][1])
    seconds = statistics.median(run.seconds for run, _ in done)
    return {
        "what": f"kiln verify of all samples ({files} artefacts), s",
        "kiln": seconds,
        "bound": 2.0,
    }


def _split(events: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """By model: seconds in stages that check, and in all others."""
    found: dict[str, tuple[float, float]] = {}
    for event in events:
        if event.get("event") == "stage" and event.get("state") == "finished":
            checks, rest = found.get(event["model"], (0.0, 0.0))
            if event["id"].startswith(CHECKS):
                checks += event["seconds"]
            else:
                rest += event["seconds"]
            found[event["model"]] = (checks, rest)
    return found
