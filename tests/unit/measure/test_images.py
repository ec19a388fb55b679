"""What keeps an image out of a measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kiln.measure import images
from kiln.measure.coco import Picture


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    return path


def test_a_sound_image(picture: Path) -> None:
    assert images.fault(picture, Picture(1, "a.jpg", 40, 60)) == ""
    # A smaller copy of the annotated one: boxes are fractions.
    assert images.fault(picture, Picture(1, "a.jpg", 427, 640)) == ""


def test_an_image_that_is_not_the_annotated_one(picture: Path) -> None:
    told = images.fault(picture, Picture(1, "a.jpg", 60, 40))
    assert told == "it is 60 x 40 pixels, annotated as 40 x 60"


def test_damaged_images(picture: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(picture.read_bytes()[:300])
    assert images.fault(cut, Picture(1, "cut.jpg", 40, 60))
    empty = tmp_path / "empty.png"
    empty.touch()
    assert images.fault(empty, Picture(1, "empty.png", 40, 60))
    other = tmp_path / "a.gif"
    Image.open(picture).save(other)
    assert "not one of .jpg" in images.fault(other, Picture(1, "a.gif", 40, 60))
