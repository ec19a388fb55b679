"""On which images a source model with a large input is run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.detect.enough import PARAM, Enough

SQUARE, WIDE = np.zeros((500, 500, 3), np.uint8), np.zeros((300, 500, 3), np.uint8)
FOUND, FAINT = [{"score": 0.3}], [{"score": 0.29}]


def seen(images: list[tuple[str, Any, Any]], param: Any = PARAM, side: int = 640) -> list[str]:
    enough = Enough(param, side, side)
    names = []
    for name, image, found in images:
        if not enough.skips(name, image):
            names.append(name)
            enough.note(image, found)
    return names


def test_two_that_tell_are_enough() -> None:
    images = [("a", SQUARE, FOUND), ("b", WIDE, FOUND), ("c", WIDE, FOUND), ("d", SQUARE, FOUND)]
    assert seen(images) == ["a", "b"]


def test_one_is_of_other_proportions() -> None:
    images = [(str(n), SQUARE, FOUND) for n in range(4)]
    images += [("faint", WIDE, FAINT), ("wide", WIDE, FOUND), ("wide too", WIDE, FOUND)]
    assert seen(images) == ["0", "1", "faint", "wide"]


def test_images_in_which_nothing_is_found_do_not_count() -> None:
    images = [(str(n), WIDE, FAINT) for n in range(6)]
    assert seen(images) == [name for name, _, _ in images]


def test_expected_images_are_always_seen() -> None:
    images = [(str(n), WIDE, FOUND) for n in range(6)]
    assert seen(images, {**PARAM, "images": ["4"]}) == ["0", "1", "4"]


@pytest.mark.parametrize(("param", "side"), [(None, 640), (PARAM, 320)])
def test_otherwise_all_are_seen(param: Any, side: int) -> None:
    images = [(str(n), WIDE, FOUND) for n in range(6)]
    assert seen(images, param, side) == [name for name, _, _ in images]
