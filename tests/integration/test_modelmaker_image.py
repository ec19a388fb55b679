"""The sealed Model Maker image: what it leaves out is dead weight, and using it says so."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker.errors
import pytest
from places import ROOT
from support import Stages, Wanted

from kiln.core.errors import StageFailedError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.lock import Locked
from kiln.running.engine import Engine
from stages.lite.model_maker import ABSENT

MOST = 0.60
"""Of the size of an image with everything installed that Model Maker asks for."""


@dataclass(frozen=True)
class FullSet:
    """An image with all 118 packages, and what runs stages in it."""

    image: Locked
    stages: Stages


@pytest.fixture(scope="module")
def full_set(engine: Engine, stages: Stages, area: Path) -> Iterator[FullSet]:
    """The same base, installer and Dockerfile with the full lock and nothing removed."""
    folder = area / "full-docker"
    (folder / "full_set").mkdir(parents=True)
    shutil.copytree(ROOT / "docker" / "base", folder / "base")
    for name in ("install.py", "build-tools.lock", "images.lock", "images.toml"):
        shutil.copy(ROOT / "docker" / name, folder)
    shutil.copy(
        ROOT / "docker" / "modelmaker" / "full.lock", folder / "full_set" / "requirements.lock"
    )
    recipe = (ROOT / "docker" / "modelmaker" / "Dockerfile").read_text("utf-8")
    removal = ', "--prune", "/build/prune.txt"'
    assert recipe.count(removal) == 1
    (folder / "full_set" / "Dockerfile").write_text(recipe.replace(removal, ""))
    with (folder / "images.toml").open("a") as stream:
        stream.write(
            '\n[full_set]\nparent = "base"\nwheels = ["full_set/requirements.lock"]\n'
            'tools = "build-tools.lock"\nfiles = ["install.py"]\n'
        )
    built = Images(folder, lambda: engine, Store(Store.default_root())).build("full_set")
    image = Locked.of("full_set", built.sealed, built.recipe)
    assert image.tag == built.tag
    try:
        yield FullSet(image, replace(stages, image=image))
    finally:
        with contextlib.suppress(docker.errors.DockerException):
            engine.client.api.remove_image(image.tag, force=True)


def test_imports_in_a_sealed_container(lite_stages: Stages) -> None:
    facts = lite_stages.run(Wanted("probe", "model_maker_probe", {}, {}))["probe"].facts
    assert facts["prefix"] == "/opt/modelmaker"
    assert facts["uid"] != 0
    assert facts["interfaces"] == ["lo"]
    assert facts["root_writable"] is False
    assert facts["image_size"] == [320, 320]
    assert facts["stand_ins"] == sorted(ABSENT)
    assert set(facts["refused"]) == set(ABSENT)
    for package, message in facts["refused"].items():
        assert f"{package}.anything" in message


def test_absent_package_that_is_used_says_so(lite_stages: Stages) -> None:
    with pytest.raises(StageFailedError) as caught:
        lite_stages.run(Wanted("probe", "model_maker_probe", {"use_stand_in": True}, {}))
    assert "tensorflow_addons.callbacks.AverageModelCheckpoint" in str(caught.value)
    assert "not installed" in str(caught.value)


@pytest.mark.nightly  # builds the whole set: 118 packages
def test_size(modelmaker: Locked, full_set: FullSet) -> None:
    ratio = modelmaker.size / full_set.image.size
    print(f"sealed {modelmaker.size / 1e6:.0f} MB, full {full_set.image.size / 1e6:.0f} MB")
    assert ratio <= MOST


@pytest.mark.nightly
def test_what_is_left_out_does_not_change_the_export(
    lite_stages: Stages, full_set: FullSet
) -> None:
    params = {"seed": 5, "image_size": [256, 256], "images": 3}
    wanted = Wanted("bare", "bare_model_maker", params, {})
    ours = lite_stages.run(wanted)["bare"]
    theirs = full_set.stages.run(wanted)["bare"]
    assert ours.facts["variables"] == theirs.facts["variables"] > 500
    # One with stand-ins in all places, one with none: or nothing would have been compared.
    assert ours.facts["stand_ins"] == sorted(ABSENT)
    assert theirs.facts["stand_ins"] == []
    for name in ("float32.tflite", "int8.tflite"):
        assert _digest(ours, name) == _digest(theirs, name), name
    assert _digest(ours, "float32.tflite") != _digest(ours, "int8.tflite")


def _digest(result: StageResult, name: str) -> Any:
    file = result.files[name]
    assert file.size > 1_000_000
    return file.sha256
