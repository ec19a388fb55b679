"""Measure images: build time from fetched packages, and size."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.common import Row
from kiln.core.store import Store
from kiln.images import definition as definitions
from kiln.images.builder import Images
from kiln.images.lock import locked_image
from kiln.project.folders import Project
from kiln.running.engine import Engine

#: Seconds that building and sealing an image may take, with all packages fetched.
COLD = 180

_UV = Path(sys.executable).parent / "uv"
_PLATFORM = ["--python-version", "3.9", "--python-platform", "x86_64-manylinux_2_31", "--quiet"]


def cold(project: Project, engine: Engine) -> list[Row]:
    """Time building and sealing every image from fetched wheels, without a cache."""
    store = Store(Store.default_root())
    images = Images(project.docker, lambda: engine, store)
    rows: list[Row] = []
    for name in definitions.load(project.docker):
        built = images.build(name)
        images.check(built, locked_image(project.docker, name))
        seconds = built.seconds["build"] + built.seconds["seal"]
        rows.append(
            {"what": f"image {name}: cold build and seal, s", "kiln": seconds, "bound": COLD}
        )
    return rows


def sizes(project: Project, folder: Path) -> list[Row]:
    """Compare each environment's size with a plain installation of the same requirements.

    Plain: the named packages with every requirement that they declare, as pip would unpack them,
    without ``.pyc`` and with nothing left out. Only contradictory pins are overridden. uv resolves,
    because pip does not finish. For modelmaker that resolution is a separate lock (``full.lock``).
    """
    overrides = folder / "overrides.txt"
    overrides.write_text("protobuf==3.20.3\npyparsing==2.4.7\n")
    locks = []
    for name in ("requirements", "metadata"):
        locks.append(folder / f"{name}.txt")
        subprocess.run(
            [_UV, "pip", "compile", project.docker / "odapi" / f"{name}.in", "--override",
             overrides, *_PLATFORM, "--exclude-newer", "2026-11-01", "--output-file", locks[-1]],
            check=True,
        )  # fmt: skip
    full = project.docker / "modelmaker" / "full.lock"
    return [
        _row(project, "odapi", [_installed(lock, folder) for lock in locks], None),
        _row(project, "modelmaker", [_installed(full, folder)], 0.6),
    ]


def _row(project: Project, image: str, plain: list[int], bound: float | None) -> Row:
    own = locked_image(project.docker, image).size - locked_image(project.docker, "base").size
    row: Row = {"what": f"{image} environments, MB", "kiln": own / 1e6,
                "other": sum(plain) / 1e6, "ratio": own / sum(plain)}  # fmt: skip
    return row if bound is None else {**row, "bound": bound}


def _installed(lock: Path, folder: Path) -> int:
    """Count the bytes of a lock's packages, installed unchanged."""
    target = folder / "plain"
    subprocess.run(
        [_UV, "pip", "install", "--no-deps", "--target", target, "--requirement", lock,
         "--no-cache", *_PLATFORM],
        check=True,
    )  # fmt: skip
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    shutil.rmtree(target)
    return total
