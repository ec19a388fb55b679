"""The calibration scenes are the ones their README says, and unlike those that are measured."""

from __future__ import annotations

import numpy as np
import pytest
import scenes
from places import SAMPLES

from stages.files import pixels

PICTURES = pixels.list_images(SAMPLES / "shapes")


def test_there_are_as_many_as_the_readme_says() -> None:
    assert [path.name for path in PICTURES] == [f"scene_{number:02}.png" for number in range(12)]
    assert sum(path.stat().st_size for path in PICTURES) < 2_000_000


@pytest.mark.parametrize("number", range(len(PICTURES)))
def test_pictures_are_the_calibration_scenes(number: int) -> None:
    drawn = scenes.scene(scenes.CALIBRATION + number, 320, 320)
    stored = pixels.load_rgb(PICTURES[number])
    difference = np.abs(stored.astype(int) - drawn.image.astype(int))
    # Another processor may round a value the other way, here and there.
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_the_sets_of_scenes_do_not_overlap() -> None:
    starts = sorted([scenes.TRAINING, scenes.CALIBRATION, scenes.VALIDATION])
    assert starts[1] - starts[0] >= 1_000_000
    one, other = (scenes.scene(start, 256, 256).image for start in starts[1:])
    assert not np.array_equal(one, other)
