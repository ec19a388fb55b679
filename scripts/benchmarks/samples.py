"""All samples, all variants: two models at a time beside one at a time."""

from __future__ import annotations

from pathlib import Path

from benchmarks import common
from benchmarks.common import Row, Run
from kiln.project import Project


def measure(project: Project, folder: Path, rounds: int) -> list[Row]:
    """``--jobs 2`` against ``--jobs 1``, images at hand, an empty store each time."""

    def kiln(jobs: int) -> Run:
        common.empty(folder)
        return common.build(project, folder, ["--samples", "--jobs", str(jobs)])

    ways = {"--jobs 2": lambda: kiln(2), "--jobs 1": lambda: kiln(1)}
    runs = common.take_turns(rounds, ways)
    return common.compared(
        "all samples, --jobs 2 beside --jobs 1", runs["--jobs 2"], runs["--jobs 1"], 1.0,
        memory=False,
    )  # fmt: skip
