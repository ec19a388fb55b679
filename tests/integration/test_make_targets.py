"""The make targets that the workflows run, where they need an engine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from support import SAMPLE, SAMPLES, Kiln


def make(target: str, kiln: Kiln, **settings: str | Path) -> str:
    """Run a target in this checkout, with its own .venv, as a job does."""
    if not (ROOT / ".venv" / ".run").exists():
        pytest.skip("there is no .venv: `make env` makes it")
    environment = {k: v for k, v in kiln.environment().items() if k != "PYTHONPATH"}
    environment |= {"KILN_PROJECT": str(ROOT), **{k: str(v) for k, v in settings.items()}}
    ended = subprocess.run(
        ["make", "--silent", target],
        cwd=ROOT,
        env={k: v for k, v in environment.items() if not k.startswith("MAKE")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def names(folder: Path) -> set[str]:
    """What a folder holds."""
    return {path.name for path in folder.iterdir()}


def test_images_are_there(shared: Kiln, odapi: Any, modelmaker: Any, device: Any) -> None:
    make("images", shared)


def test_an_image_goes_through_a_file(shared: Kiln, odapi: Any, area: Path) -> None:
    make("images-save", shared, IMAGE="base", IMAGES=area / "saved")
    (path,) = (area / "saved").iterdir()
    assert path.name.startswith("base-")
    assert "base: sha256:" in make("images-load", shared, IMAGES=area / "saved")


def test_one_model(sample: Any, shared: Kiln, area: Path) -> None:
    """Its results are in the store already."""
    dist = area / "dist-of-make"
    assert "0 stages run" in make("build", shared, MODEL=SAMPLE, DIST=dist)
    assert names(dist / SAMPLE) == names(sample.folder)


def test_a_release_from_part_to_verdict(sample: Any, shared: Kiln, area: Path) -> None:
    """What the release's jobs and the monthly one run, one after the other."""
    root = area / "release-of-make"
    settings: dict[str, str | Path] = {
        "KILN_RELEASE": "v7",
        "DIST": root / "dist",
        "PARTS": root / "parts",
        "ASSETS": root / "assets",
        "TRUST": root / "trust",
        "POLICY": root / "trust" / "trust.toml",
        "RELEASE": root / "release",
        "REPRODUCED": root / "reproduced",
        "TAG": "v7",
    }
    part = root / "parts" / "part-one"
    shared.but(dist=part)("build", SAMPLE, "--variant", "dynamic").ok()
    make("trust-file", shared, PUBLIC_KEY=(part / "kiln.pub").read_text(), **settings)
    make("collect", shared, **settings)
    make("verify", shared, **settings)
    assert f"`{SAMPLE}_dynamic.tflite`" in make("notes", shared, **settings)

    (root / "release").mkdir()
    archive = root / "assets" / "tflite-kiln-v7.tar"
    subprocess.run(["tar", "-xf", archive, "-C", root / "release"], check=True)
    make("reproduce", shared, **settings)
    report = make("reproduce-report", shared, **settings)
    assert "v7: reproduced" in report
    assert report.count("| identical |") == 1


def test_samples(samples: Any, shared: Kiln, area: Path) -> None:
    dist = area / "samples-of-make"
    assert "0 stages run" in make("sample", shared, DIST=dist)
    assert set(SAMPLES) <= names(dist)
