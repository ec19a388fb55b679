"""Measure all samples: two models at a time compared with one, and the cost of checks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import common
from benchmarks.common import Row, Run
from kiln.project.folders import Project
from kiln.recipes.recipe import discover, load

#: Share of a conversion's wall time that checks may add.
BOUND = 0.35


def measure(project: Project, folder: Path, rounds: int) -> list[Row]:
    """Compare ``--jobs 2`` with ``--jobs 1`` from an empty store; then measure checks."""

    def kiln(jobs: int) -> Run:
        common.empty(folder)
        return common.build(project, folder, ["--samples", "--jobs", str(jobs)])

    runs = common.take_turns(rounds, {"--jobs 2": lambda: kiln(2), "--jobs 1": lambda: kiln(1)})
    rows = common.compared(
        "all samples, --jobs 2 beside --jobs 1", runs["--jobs 2"], runs["--jobs 1"], 1.0,
        memory=False,
    )  # fmt: skip
    rows.append(_verified(project, folder, rounds))
    return rows + _checks(project, folder, rounds)


def _checks(project: Project, folder: Path, rounds: int) -> list[Row]:
    """Compare each sample with all its checks, inside and outside of the image, and without."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for model, path in discover(project.models).items():
        if not load(path, project.models).sample:
            continue

        def one(program: Sequence[str], model: str = model) -> Run:
            common.empty(folder)
            return common.build(project, folder, [model], program)

        ways = {
            f"{model}, checked": partial(one, common.KILN),
            f"{model}, unchecked": partial(one, common.UNCHECKED),
        }
        runs = common.take_turns(rounds, ways)
        checked, unchecked = ([run.seconds for run in way] for way in runs.values())
        pairs[model] = [
            (with_ - without, without) for with_, without in zip(checked, unchecked, strict=True)
        ]
    every = [
        (sum(added for added, _ in models), sum(rest for _, rest in models))
        for models in zip(*pairs.values(), strict=True)
    ]
    rows: list[Row] = []
    for model, measured in {**pairs, "all samples": every}.items():
        added, rest = (statistics.median(part) for part in zip(*measured, strict=True))
        rows.append(
            {"what": f"what checks add to {model}, wall s", "kiln": added, "other": rest,
             "ratio": statistics.median(a / b for a, b in measured), "bound": BOUND}
        )  # fmt: skip
    return rows


def _verified(project: Project, folder: Path, rounds: int) -> Row:
    """Time ``kiln verify`` of the present release, including its start."""
    arguments = ["verify", str(folder / "dist")]
    seconds = statistics.median(
        common.kiln(project, folder, arguments).seconds for _ in range(max(rounds, 3))
    )
    files = len(list((folder / "dist").glob("*/*.tflite")))
    return {
        "what": f"kiln verify of all samples ({files} artefacts), s",
        "kiln": seconds,
        "bound": 2.0,
    }
