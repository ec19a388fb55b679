"""Run kiln and hand-written scripts, compare their figures, and format them."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.building.build import Builder
from kiln.core.output import table
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.recipes.recipe import discover
from kiln.recipes.selection import select
from kiln.running.engine import Engine
from kiln.running.limits import Limits

KILN = (str(Path(sys.executable).parent / "kiln"),)
UNCHECKED = (sys.executable, str(Path(__file__).resolve().parent / "unchecked.py"))
BASELINE = Path(__file__).resolve().parent / "baseline"

#: One line of the result: ``what``, ``kiln``, and for a comparison ``other``, ``ratio`` and the
#: ``bound`` on the ratio.
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One measured run: wall time in seconds and the largest process's memory in bytes."""

    seconds: float
    peak: int


def build(
    project: Project, folder: Path, arguments: Sequence[str], program: Sequence[str] = KILN
) -> Run:
    """Run ``kiln build`` as a user does, with the store and dist in ``folder``."""
    return kiln(project, folder, ["build", *arguments, "--dist", str(folder / "dist")], program)


def kiln(
    project: Project, folder: Path, arguments: Sequence[str], program: Sequence[str] = KILN
) -> Run:
    """Run a kiln command as a user does, with the store in ``folder``."""
    command = [*program, *arguments, "--json"]
    environment = {**os.environ, "KILN_STORE": str(folder / "store")}
    environment["KILN_PROJECT"] = str(project.root)
    start = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    events = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0:
        raise SystemExit(f"bench: kiln {arguments[0]} failed: {events[-1:]}")
    peaks = [event["peak_rss"] for event in events if event.get("state") == "finished"]
    return Run(seconds, max(peaks, default=0))


def empty(folder: Path) -> None:
    """Remove the store and dist of :func:`build`."""
    for name in ("store", "dist"):
        shutil.rmtree(folder / name, ignore_errors=True)


def by_hand(
    engine: Engine, image: str, command: Sequence[str], mounts: Mapping[Path, tuple[str, str]]
) -> Run:
    """Run a command in the sealed image, whose processes print ``peak BYTES`` at their end."""
    output = bytearray()
    start = time.monotonic()
    outcome = engine.run(
        image,
        command,
        mounts=mounts,
        environment={"BASELINE": "1"},
        limits=Limits(),
        on_stdout=output.extend,
        user="1000:1000",
    )
    seconds = time.monotonic() - start
    if outcome.exit_code != 0:
        raise SystemExit(f"bench: the hand-written way failed:\n{outcome.log[-3000:]}")
    lines = output.decode(errors="replace").splitlines()
    peaks = [int(line.split()[1]) for line in lines if line.startswith("peak ")]
    return Run(seconds, max(peaks))


def prepared(project: Project, folder: Path, model: str, variant: str) -> dict[str, Any]:
    """Build a sample into ``folder/prepared`` and return its ``conversion.json``.

    Its checkpoint is copied to ``folder/in/model``.
    """
    store = Store(Store.default_root())
    builder = Builder(project, store, folder / "prepared", lambda *_, **__: None)
    chosen = select(project.models, discover(project.models), [model])
    (done,) = builder.build(chosen, [variant])  # type: ignore[list-item]
    if done.error is not None:
        raise done.error
    text = (folder / "prepared" / model / "conversion.json").read_text("utf-8")
    record: dict[str, Any] = json.loads(text)
    store.materialize(record["stages"]["checkpoint"]["files"], folder / "in", link=False)
    return record


def out_folder(folder: Path) -> Path:
    """Make a folder that the container's user can write to."""
    out = folder / "hand-out"
    out.mkdir(exist_ok=True)
    out.chmod(0o777)
    return out


def take_turns(rounds: int, ways: Mapping[str, Callable[[], Run]]) -> dict[str, list[Run]]:
    """Run every way once per round, in turn, so that a slow moment affects all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
            print(f"  round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    return runs


def compared(
    what: str, ours: Sequence[Run], other: Sequence[Run], bound: float, *, memory: bool = True
) -> list[Row]:
    """Make rows for time and memory: medians, the median of the rounds' ratios, the bound."""
    seconds = [statistics.median(run.seconds for run in way) for way in (ours, other)]
    ratios = sorted(a.seconds / b.seconds for a, b in zip(ours, other, strict=True))
    rows: list[Row] = [
        {"what": f"{what}, wall s", "kiln": seconds[0], "other": seconds[1],
         "ratio": statistics.median(ratios), "bound": bound, "spread": [ratios[0], ratios[-1]]},
    ]  # fmt: skip
    if memory:
        peaks = [max(run.peak for run in way) / 2**20 for way in (ours, other)]
        rows.append(
            {"what": f"{what}, peak MiB", "kiln": peaks[0], "other": peaks[1],
             "ratio": peaks[0] / peaks[1], "bound": 1.0}
        )  # fmt: skip
    return rows


def show(rows: Sequence[Row]) -> str:
    """Format the figures as a table; ``!`` marks a ratio or lone figure over its bound."""
    lines = []
    for row in rows:
        bound = row.get("bound")
        ratio = row.get("ratio")
        lines.append([
            row["what"],
            f"{row['kiln']:.2f}",
            f"{row['other']:.2f}" if "other" in row else "",
            f"{ratio:.2f}" if ratio is not None else "",
            f"{'!' if over(row) else ''}<= {bound}" if bound is not None else "",
        ])  # fmt: skip
    return table(["", "kiln", "other", "ratio", "bound"], lines)


def over(row: Row) -> bool:
    """Whether a row's ratio (or its figure, if there is none) is over its bound."""
    return bool(row.get("ratio", row["kiln"]) > row.get("bound", float("inf")))
