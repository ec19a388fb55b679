"""On which images a source model with a large input is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.detect.enough import PARAM, Enough

SQUARE, WIDE = (50, 50), (50, 30)
FOUND, FAINT = 0.3, 0.29


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def seen(
    folder: Path,
    images: Mapping[str, tuple[tuple[int, int], float]],
    param: Any = PARAM,
    side: int = 640,
) -> list[str]:
    for name, (size, _) in images.items():
        Image.new("RGB", size).save(folder / f"{name}.png")
    enough, names = Enough(param, side, side), []
    for file, _ in enough.pictures(folder, crops=True):
        name = file.replace(".png", "")
        names.append(name)
        score = images[name][1] if name in images else FOUND  # a crop
        enough.note([{"score": 0.01}, {"score": score}])
    return names


def test_two_that_tell_are_enough_one_of_other_proportions(folder: Path) -> None:
    images = {
        "a": (SQUARE, FAINT), "b": (SQUARE, FOUND), "c": (SQUARE, FOUND),
        "d": (WIDE, FAINT), "e": (WIDE, FOUND), "f": (WIDE, FOUND),
    }  # fmt: skip
    assert seen(folder, images) == ["d", "e", "a", "b"]


def test_all_of_other_proportions(folder: Path) -> None:
    images = dict.fromkeys("abc", (WIDE, FOUND))
    assert seen(folder, images) == ["a", "b"]


def test_none_of_other_proportions(folder: Path) -> None:
    images = dict.fromkeys("abc", (SQUARE, FOUND))
    assert seen(folder, images) == ["a (16:9)", "a"]


def test_images_in_which_nothing_is_found_do_not_count(folder: Path) -> None:
    images = {"a": (SQUARE, FAINT), "b": (SQUARE, FAINT), "c": (WIDE, FAINT), "d": (WIDE, FOUND)}
    assert seen(folder, images) == ["c", "d", "a", "b"]


def test_expected_images_are_always_seen(folder: Path) -> None:
    images = dict.fromkeys("abcde", (WIDE, FOUND))
    assert seen(folder, images, {**PARAM, "images": ["d.png"]}) == ["a", "d"]


@pytest.mark.parametrize(("param", "side"), [(None, 640), (PARAM, 320)])
def test_otherwise_all_are_seen(folder: Path, param: Any, side: int) -> None:
    images = dict.fromkeys("abcde", (WIDE, FOUND))
    assert seen(folder, images, param, side) == [*"abcde"]
