"""Pictures to calibrate on, made of few photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.files import calibration, feeding
from stages.protocol.failures import StageError

RANDOM = np.random.default_rng(3)
PHOTO = RANDOM.integers(0, 256, (40, 56, 3), np.uint8)


class Progress:
    def __init__(self) -> None:
        self.told: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, text: str) -> None:
        self.told.append((done, total, text))


def test_the_first_two_are_the_photograph_and_its_mirror_image() -> None:
    assert (calibration.view(PHOTO, 0) == PHOTO).all()
    assert (calibration.view(PHOTO, 1)[:, ::-1] == PHOTO).all()


def test_all_views_differ_and_are_parts_of_the_photograph() -> None:
    views = [calibration.view(PHOTO, number) for number in range(calibration.VIEWS)]
    assert len({view.tobytes() for view in views}) == calibration.VIEWS == 42
    for view in views[2:]:
        height, width, _ = view.shape
        assert 20 <= height < 40
        assert 28 <= width < 56
        found = [
            np.array_equal(PHOTO[top : top + height, left : left + width], shown)
            for shown in (view, view[:, ::-1])
            for top in range(40 - height + 1)
            for left in range(56 - width + 1)
        ]
        assert sum(found) == 1


def test_the_smallest_photograph() -> None:
    dot = np.full((1, 1, 3), 7, np.uint8)
    assert all(calibration.view(dot, number).tolist() == [[[7, 7, 7]]] for number in range(42))


def test_the_order_takes_all_photographs_in_turn() -> None:
    files = [Path("a.png"), Path("b.png"), Path("c.png")]
    assert calibration.chosen(files, None) == [(file, 0) for file in files]
    assert calibration.chosen(files, 2) == [(files[0], 0), (files[1], 0)]
    assert calibration.chosen(files, 7) == [
        *((file, 0) for file in files),
        *((file, 1) for file in files),
        (files[0], 2),
    ]
    longer, shorter = calibration.chosen(files, 126), calibration.chosen(files, 30)
    assert longer[:30] == shorter
    assert len(set(longer)) == 126


def test_more_than_can_be_made_is_refused() -> None:
    with pytest.raises(StageError) as caught:
        calibration.chosen([Path("a.png")] * 3, 127)
    assert caught.value.kind == "image-set"
    assert "127" in caught.value.message
    assert "126" in caught.value.remedy


def test_inputs_are_fed_and_normalised(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(PHOTO).save(tmp_path / name)
    pictures = calibration.chosen([tmp_path / "a.png", tmp_path / "b.png"], 3)
    norm = {"mean": [127.5] * 3, "std": [127.5] * 3}
    told = Progress()
    made: list[Any] = [
        item
        for (item,) in calibration.representative(pictures, (40, 56), feeding.ASSUMED, norm, told)
    ]
    assert [item.shape for item in made] == [(1, 40, 56, 3)] * 3
    assert all(item.dtype == np.float32 for item in made)
    expected = (PHOTO - np.float32(127.5)) / np.float32(127.5)
    assert np.array_equal(made[1][0], expected)
    assert np.array_equal(made[2][0], expected[:, ::-1])
    # One black and one white pixel: the first input spans the whole range.
    assert (made[0].min(), made[0].max()) == (-1, 1)
    assert np.array_equal(made[0][0].reshape(-1, 3)[2:], expected.reshape(-1, 3)[2:])
    assert told.told[0] == (0, 3, "calibrating on a.png")
    assert told.told[-1][:2] == (3, 3)
