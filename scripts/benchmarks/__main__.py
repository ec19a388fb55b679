"""Time kiln and hand-written scripts in the same image, in one run (``make bench``).

The two take turns, so that a slow moment of the machine affects both. Figures are medians; the
bounds are on their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import images, lite, samples, ssd
from benchmarks.common import Row, over, show
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.project.folders import Project
from kiln.running.engine import Engine
from shared import program

Measurement = Callable[[Path, int], list[Row]]


def measurements(project: Project, engine: Engine) -> dict[str, Measurement]:
    """Return the measurements by name; each takes an empty folder and the number of rounds."""
    sealed = Images(project.docker, lambda: engine, Store(Store.default_root()))

    def image(name: str) -> str:
        return sealed.ensure(name).tag

    return {
        "ssd": lambda folder, rounds: ssd.measure(project, engine, image("odapi"), folder, rounds),
        "lite": lambda folder, rounds: lite.measure(
            project, engine, image("modelmaker"), folder, rounds
        ),
        "samples": lambda folder, rounds: samples.measure(project, folder, rounds),
        "sizes": lambda folder, _: images.sizes(project, folder),
        "images": lambda _, __: images.cold(project, engine),
    }


def main() -> None:
    """Measure and print; exit with code 1 if a figure is over its bound."""
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times each way is run [3]")
    parser.add_argument("--only", action="append", default=[], help="only this measurement")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args()
    rows: list[Row] = []
    known = measurements(Project.find(), Engine.find())
    for name in arguments.only:
        if name not in known:
            raise SystemExit(f"bench: there is no {name!r}; known: {', '.join(known)}")
    for name, measure in known.items():
        if not arguments.only or name in arguments.only:
            with tempfile.TemporaryDirectory(prefix="kiln-bench-") as made:
                folder = Path(made)
                folder.chmod(0o755)
                rows += measure(folder, arguments.rounds)
    if arguments.json:
        print(json.dumps({"machine": platform.processor(), "cpus": os.cpu_count(), "rows": rows}))
    else:
        print(show(rows))
    sys.exit(any(over(row) for row in rows))


if __name__ == "__main__":
    program.run_function(main, "bench")
