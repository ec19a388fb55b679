"""What is made of figures; runs are in tests/integration."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from toy_plan import recipe

from kiln.measure import accuracy, bootstrap, scoring
from kiln.measure.bootstrap import Interval
from kiln.measure.coco import Annotated, Picture
from kiln.measure.detection_runs import Subject
from kiln.measure.report import TOLERANCE, Measured
from kiln.measure.scoring import Detection, Evaluation

HITS = [number % 3 != 0 for number in range(60)]


def test_what_a_recipe_expects() -> None:
    assert accuracy._expected(recipe(variants=["float32"])) == ({}, TOLERANCE)
    told: Any = SimpleNamespace(check=SimpleNamespace(ap={"source": 0.2}, ap_tolerance=0.005))
    assert accuracy._expected(told) == ({"source": 0.2}, 0.005)


def evaluation(hits: list[bool]) -> Evaluation:
    """Images of one object each, which is found or not."""
    pictures = [Picture(number, f"{number}.jpg", 100, 100) for number in range(len(hits))]
    objects = [Annotated(p.id, 1, (10.0, 10.0, 50.0, 50.0), 2500.0, False) for p in pictures]
    found = [Detection(n, 1, [0.1, 0.1, 0.6, 0.6], 0.9) for n, hit in enumerate(hits) if hit]
    return scoring.evaluate(pictures, objects, [1], found)


def measured(**hits: list[bool]) -> dict[str, Measured]:
    subjects = [Subject(name, "odapi", "detect", {}, {}) for name in hits]
    evaluations = {name: evaluation(found) for name, found in hits.items()}
    return {m.what: m for m in accuracy._measured(subjects, evaluations, {"twin": 0.5})}


def test_every_figure_has_an_interval_and_every_difference() -> None:
    worse = [hit and number > 20 for number, hit in enumerate(HITS)]
    blink = [hit and number != 1 for number, hit in enumerate(HITS)]
    found = measured(source=HITS, twin=list(HITS), blink=blink, worse=worse)
    for item in found.values():
        assert item.intervals.keys() == {"ap", "ap50", "ap75", "ar100"}
        assert item.intervals["ap"].holds(item.scores.ap)
    assert found["source"].difference is None
    assert found["twin"].expected == 0.5
    differences = {what: item.difference for what, item in found.items() if item.difference}
    assert differences["twin"].interval == Interval(0, 0)
    assert differences["twin"].noise
    # One object of sixty, which most resamples do not even draw twice, against fourteen.
    assert differences["blink"].ap < 0
    assert differences["blink"].noise
    assert differences["worse"].noise is False
    assert differences["worse"].ap == found["worse"].scores.ap - found["source"].scores.ap


def test_too_few_images_for_an_interval() -> None:
    few = HITS[: bootstrap.LEAST_IMAGES - 1]
    found = measured(source=few, float32=few)
    assert not found["source"].intervals
    assert found["float32"].difference is not None
    assert found["float32"].difference.noise is None
    assert measured(source=HITS[: bootstrap.LEAST_IMAGES])["source"].intervals


def test_without_a_source() -> None:
    found = measured(float32=HITS)
    assert found["float32"].difference is None
    assert found["float32"].intervals["ap"].low == pytest.approx(0.55, abs=0.08)
