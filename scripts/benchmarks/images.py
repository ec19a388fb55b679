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
from kiln.images.lock import locked_contents, locked_image
from kiln.project.folders import Project
from kiln.running.engine import Engine

#: Seconds that building and sealing an image may take, with all packages fetched.
COLD = 180

_UV = Path(sys.executable).parent / "uv"
#: Of the images on Debian 11, and of ``device``, on Debian 13; as scripts/locks/python.sh has them.
_OLD = ["--python-version", "3.9", "--python-platform", "x86_64-manylinux_2_31", "--quiet"]
_NEW = ["--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_40", "--quiet"]
_NEWEST = "2026-11-20"  # of packages, as in the locks


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
        asked = project.docker / "odapi" / f"{name}.in"
        _resolve([asked, "--override", overrides, *_OLD], locks[-1])
    full = project.docker / "modelmaker" / "full.lock"
    today = folder / "device.txt"
    _resolve([project.docker / "device" / "requirements.in", *_NEW], today)
    return [
        _row(project, "odapi", [_installed(lock, folder, _OLD) for lock in locks], None),
        _row(project, "modelmaker", [_installed(full, folder, _OLD)], 0.6),
        _row(project, "device", [_installed(today, folder, _NEW)], None),
    ]


def _resolve(options: list[str | Path], lock: Path) -> None:
    """Write the lock of what is asked for and all that it declares."""
    subprocess.run(
        [_UV, "pip", "compile", *options, "--exclude-newer", _NEWEST, "--output-file", lock],
        check=True,
    )


def _row(project: Project, image: str, plain: list[int], bound: float | None) -> Row:
    contents = locked_contents(project.docker, image)
    own = sum(entry.size for entry in contents if entry.path.startswith("opt/"))
    row: Row = {"what": f"{image} environments, MB", "kiln": own / 1e6,
                "other": sum(plain) / 1e6, "ratio": own / sum(plain)}  # fmt: skip
    return row if bound is None else {**row, "bound": bound}


def _installed(lock: Path, folder: Path, platform: list[str]) -> int:
    """Count the bytes of a lock's packages, installed unchanged."""
    target = folder / "plain"
    subprocess.run(
        [_UV, "pip", "install", "--no-deps", "--target", target, "--requirement", lock,
         "--no-cache", *platform],
        check=True,
    )  # fmt: skip
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    shutil.rmtree(target)
    return total
