"""COCO's measures on cases small enough to be worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import astuple

import pytest

from kiln.core.errors import ImageSetError, UsageError
from kiln.measure import scoring
from kiln.measure.coco import Annotated, Picture
from kiln.measure.scoring import Detection, Scores

PICTURE = Picture(5, "a.jpg", 200, 100)
CAT = 17


def thing(x: float, y: float, width: float, height: float, **more: object) -> Annotated:
    values = {"picture": 5, "category": CAT, "crowd": False, **more}
    return Annotated(box=(x, y, width, height), area=width * height, **values)  # type: ignore[arg-type]


def test_a_perfect_one() -> None:
    """Fractions of height and width, not of one side."""
    found = [Detection(5, CAT, [0.1, 0.2, 0.6, 0.9], 0.8)]
    scores = scoring.evaluate([PICTURE], [thing(20, 20, 70, 100)], [CAT], found).scores
    assert astuple(scores) == pytest.approx((1, 1, 1, 1))


def test_a_box_that_is_a_bit_off() -> None:
    """IoU 0.62: right at thresholds 0.5, 0.55 and 0.6, three of ten."""
    found = [Detection(5, CAT, [0.0, 0.0, 0.62, 1.0], 0.8)]
    scores = scoring.evaluate([PICTURE], [thing(0, 0, 100, 200)], [CAT], found).scores
    assert astuple(scores) == pytest.approx((0.3, 1, 0, 0.3))


def test_a_false_one_first_and_one_not_found() -> None:
    """Precision 1/2 up to recall 1/2, then none: 51 of the 101 recalls at 1/2."""
    truth = [thing(0, 0, 50, 50), thing(50, 100, 50, 50)]
    found = [
        Detection(5, CAT, [0.8, 0.0, 0.9, 0.1], 0.9),
        Detection(5, CAT, [0.0, 0.0, 0.25, 0.5], 0.8),
    ]
    scores = scoring.evaluate([PICTURE], truth, [CAT], found).scores
    assert scores.ap == pytest.approx(0.5 * 51 / 101)
    assert scores.ar100 == pytest.approx(0.5)


def test_boxes_are_clipped_to_the_image() -> None:
    found = [Detection(5, CAT, [-0.5, -3.0, 1.2, 1.0], 0.8)]
    scores = scoring.evaluate([PICTURE], [thing(0, 0, 100, 200)], [CAT], found).scores
    assert scores.ap == pytest.approx(1)


def test_other_images_and_classes_do_not_count() -> None:
    truth = [thing(0, 0, 100, 200), thing(0, 0, 9, 9, picture=6), thing(0, 0, 9, 9, category=18)]
    found = [
        Detection(5, CAT, [0, 0, 1, 1], 0.5),
        Detection(6, CAT, [0.5, 0.5, 1, 1], 0.9),
        Detection(5, 18, [0.5, 0.5, 1, 1], 0.9),
    ]
    scores = scoring.evaluate([PICTURE], truth, [CAT], found).scores
    assert astuple(scores) == pytest.approx((1, 1, 1, 1))


def test_a_crowd_is_not_held_against_a_model() -> None:
    truth = [thing(0, 0, 50, 100), thing(50, 100, 50, 100, crowd=True)]
    found = [
        Detection(5, CAT, [0, 0, 0.5, 0.5], 0.5),
        Detection(5, CAT, [0.6, 0.6, 0.7, 0.7], 0.9),
    ]
    assert scoring.evaluate([PICTURE], truth, [CAT], found).scores.ap == pytest.approx(1)


def test_nothing_found() -> None:
    nothing = scoring.evaluate([PICTURE], [thing(0, 0, 9, 9)], [CAT], [])
    assert nothing.scores == Scores(0, 0, 0, 0)


@pytest.mark.parametrize("truth", [[], [thing(0, 0, 9, 9, crowd=True)]])
def test_nothing_to_be_found(truth: list[Annotated]) -> None:
    """COCO's figure would be -1."""
    with pytest.raises(ImageSetError, match="None of these images"):
        scoring.evaluate([PICTURE], truth, [CAT], [Detection(5, CAT, [0, 0, 1, 1], 0.5)])


def test_detections_of_a_stage() -> None:
    """Under the data set's ids; other classes left out; a hundred an image, the best ones."""
    items = [{"box": [0, 0, 1, 1], "score": 1 - n / 1000, "class_id": n % 2} for n in range(300)]
    found = scoring.detections({PICTURE.name: items}, [PICTURE], {1: CAT})
    assert len(found) == scoring.DETECTIONS / 2
    assert found[0] == Detection(5, CAT, [0, 0, 1, 1], 0.999)


def test_a_missing_package_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scoring.require()
    monkeypatch.setitem(sys.modules, "pycocotools", None)  # what makes Python's import fail
    with pytest.raises(UsageError, match="not installed: pycocotools") as caught:
        scoring.require()
    assert "tflite-kiln[accuracy]" in caught.value.remedy
