"""What is made of figures, and what keeps an image out; runs are in tests/integration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_plan import recipe

from kiln.core.errors import CheckFailedError
from kiln.measure import accuracy
from kiln.measure.accuracy import Measured, Report
from kiln.measure.coco import Picture
from kiln.measure.scoring import Scores


def report(*measured: Measured, images: int = 10) -> Report:
    return Report("toy", "scenes", "ab", "ef", images, 10, 1, 3, 80, measured, 0.02)


SOURCE = Measured("source", Scores(0.30, 0.5, 0.4, 0.6), expected=0.31)
INT8 = Measured("int8", Scores(0.25, 0.5, 0.4, 0.6), expected=0.28, artefact="cd")


def test_what_is_saved() -> None:
    assert report(SOURCE, INT8).as_json() == {
        "schema": 1,
        "model": "toy",
        "dataset": {
            "name": "scenes",
            "annotations_sha256": "ab",
            "images_sha256": "ef",
            "images": 10,
            "all_images": 10,
            "skipped": 1,
            "categories": 3,
            "all_categories": 80,
        },
        "artefacts": {"int8": "cd"},
        "results": {
            "source": {"ap": 0.30, "ap50": 0.5, "ap75": 0.4, "ar100": 0.6},
            "int8": {"ap": 0.25, "ap50": 0.5, "ap75": 0.4, "ar100": 0.6},
        },
    }


def test_differences_are_to_the_source() -> None:
    both = report(SOURCE, INT8)
    assert both.difference(SOURCE) is None
    assert both.difference(INT8) == pytest.approx(-0.05)
    assert report(INT8).difference(INT8) is None


def test_within_the_tolerance() -> None:
    report(SOURCE).judge()
    report(Measured("float32", Scores(0, 0, 0, 0))).judge()  # nothing is expected of it


def test_outside_of_the_tolerance() -> None:
    with pytest.raises(CheckFailedError) as caught:
        report(SOURCE, INT8, images=4).judge()
    error = caught.value
    assert "int8: expected 0.280, measured 0.250" in error.message
    assert "0.02" in error.message
    assert "source" not in error.message
    assert "only 4 of the data set's 10 images" in error.remedy
    assert "image size" in error.remedy
    with pytest.raises(CheckFailedError) as caught:
        report(INT8).judge()
    assert "only" not in caught.value.remedy


def test_what_a_recipe_expects() -> None:
    assert accuracy._expected(recipe(variants=["float32"])) == ({}, accuracy.TOLERANCE)
    told: Any = SimpleNamespace(check=SimpleNamespace(ap={"source": 0.2}, ap_tolerance=0.005))
    assert accuracy._expected(told) == ({"source": 0.2}, 0.005)


def test_the_time_limit_is_for_each_stage() -> None:
    bounded = accuracy._with_time_for(recipe(variants=["float32"], limits={"timeout": "90s"}), 3)
    assert bounded.timeout == 270
    assert accuracy._with_time_for(recipe(variants=["float32"]), 2).timeout == 7200


def test_progress_is_that_of_the_whole() -> None:
    seen: list[dict[str, Any]] = []
    overall = accuracy._Overall(
        lambda event, **fields: seen.append({"event": event, **fields}),
        {"source-001": 10, "int8-001": 10, "source-002": 4, "int8-002": 4},
    )
    overall.event("stage", id="source-001", state="cached")
    overall.event("stage", id="int8-001", state="progress", done=3, total=10, message="a.jpg")
    overall.event("stage", id="int8-001", state="finished", seconds=1)
    overall.event("stage", id="source-002", state="progress", done=4, total=4)
    overall.event("image", image="odapi", phase="build")
    assert [(e["done"], e["total"]) for e in seen if e.get("state") == "progress"] == [
        (13, 28),
        (24, 28),
    ]
    assert seen[1]["message"] == "13 of 28, a.jpg"
    assert seen[-1] == {"event": "image", "image": "odapi", "phase": "build"}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    return path


def test_a_sound_image(picture: Path) -> None:
    assert accuracy._fault(picture, Picture(1, "a.jpg", 40, 60)) == ""
    # A smaller copy of the annotated one: boxes are fractions.
    assert accuracy._fault(picture, Picture(1, "a.jpg", 427, 640)) == ""


def test_an_image_that_is_not_the_annotated_one(picture: Path) -> None:
    told = accuracy._fault(picture, Picture(1, "a.jpg", 60, 40))
    assert told == "it is 60 x 40 pixels, annotated as 40 x 60"


def test_damaged_images(picture: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(picture.read_bytes()[:300])
    assert accuracy._fault(cut, Picture(1, "cut.jpg", 40, 60))
    empty = tmp_path / "empty.png"
    empty.touch()
    assert accuracy._fault(empty, Picture(1, "empty.png", 40, 60))
    other = tmp_path / "a.gif"
    Image.open(picture).save(other)
    assert "not one of .jpg" in accuracy._fault(other, Picture(1, "a.gif", 40, 60))
