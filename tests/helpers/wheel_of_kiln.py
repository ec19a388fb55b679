"""The wheel, built from what git tracks, and what ought to be in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from places import ROOT

#: Folder or file of the checkout -> its place in the wheel.
SHIPPED = {
    "scripts/kiln/": "kiln/",
    "docker/": "kiln/_data/docker/",
    "models/labels/": "kiln/_data/models/labels/",
    "models/samples/images/": "kiln/_data/models/samples/images/",
    "LICENSE": "kiln/_data/LICENSE",
    "NOTICE": "kiln/_data/NOTICE",
    "pyproject.toml": "kiln/_data/pyproject.toml",
}


def why_not() -> str:
    """Why no wheel can be built from here; empty where one can."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return "needs git and a checkout: a wheel is held against what git tracks"
    return ""


def tracked() -> list[str]:
    """The paths that git tracks, and that are there."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
    )
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def build_wheel(area: Path) -> Path:
    """Build the wheel, without a network, from a copy of the tracked files below ``area``."""
    source = copy_sources(area / "source")
    pip("wheel", "--no-build-isolation", "--wheel-dir", area / "wheels", source)
    (wheel,) = (area / "wheels").glob("*.whl")
    return wheel


def copy_sources(source: Path) -> Path:
    """The tracked files, without the tests, in a new folder."""
    for name in tracked():
        if not name.startswith("tests/"):
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place)
    return source


def pip(command: str, *arguments: str | Path, python: str | Path = sys.executable) -> None:
    """Run pip, which may ask no index and follow no dependency."""
    alone = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    ended = subprocess.run(
        [python, "-m", "pip", command, *alone, *arguments], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
