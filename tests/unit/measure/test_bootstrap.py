"""Intervals, against COCOeval on images that are really repeated, and against known statistics."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kiln.measure import bootstrap, scoring
from kiln.measure.bootstrap import Figures, Interval
from kiln.measure.coco import Annotated, Picture
from kiln.measure.scoring import Detection, Evaluation

SIDE = 200
IMAGES, CLASSES = 9, 4


class Case:
    """A few images with objects, crowds and detections, right, shifted and wrong ones."""

    def __init__(self, seed: int) -> None:
        random = np.random.RandomState(seed)
        self.pictures = [Picture(10 + n, f"{n}.jpg", SIDE, SIDE) for n in range(IMAGES)]
        self.objects: list[Annotated] = []
        self.found: list[Detection] = []
        for picture in self.pictures:
            for number in range(random.poisson(3)):
                # The last class is in few images: many resamples lack it.
                kind = 1 + int(random.choice(CLASSES, p=[0.45, 0.3, 0.2, 0.05]))
                corner, size = random.randint(0, SIDE // 2, 2), random.randint(20, SIDE // 2, 2)
                box = (*map(float, corner), *map(float, size))
                crowd = bool(random.rand() < 0.2)
                item = Annotated(picture.id, kind, box, box[2] * box[3], crowd)
                self.objects.append(item)
                for repeat in range(random.poisson(1)):
                    self._detect(random, picture, item, number + repeat / 8)
            for number in range(2):
                kind = random.randint(1, CLASSES + 1)
                wrong = Annotated(picture.id, kind, (150.0, 5.0, 40.0, 40.0), 1600.0, False)
                self._detect(random, picture, wrong, 20 + number)

    def _detect(self, random: Any, picture: Picture, item: Annotated, number: float) -> None:
        x, y, width, height = item.box
        x, y = x + random.randint(-5, 6), y + random.randint(-5, 6)
        box = [max(side, 0) / SIDE for side in (y, x, y + height, x + width)]
        # Scores of different images are often equal, those of one image never.
        score = random.randint(1, 6) / 10 + number / 1e4
        self.found.append(Detection(picture.id, item.category, box, score))

    def evaluation(self) -> Evaluation:
        return scoring.evaluate(self.pictures, self.objects, range(1, CLASSES + 1), self.found)


def repeated(case: Case, times: Sequence[int]) -> list[float]:
    """COCO's figures of a data set that holds each image so many times."""
    images: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for picture, count in zip(case.pictures, times, strict=True):
        for copy in range(count):
            new = 100 * picture.id + copy
            images.append({"id": new, "height": SIDE, "width": SIDE})
            for item in case.objects:
                if item.picture == picture.id:
                    box, area = list(item.box), item.area
                    entry = {"id": len(truth) + 1, "image_id": new, "bbox": box, "area": area}
                    truth.append(
                        {**entry, "category_id": item.category, "iscrowd": int(item.crowd)}
                    )
            for found in case.found:
                if found.picture == picture.id:
                    top, left, bottom, right = (min(side, 1) * SIDE for side in found.box)
                    box = [left, top, right - left, bottom - top]
                    entry = {"image_id": new, "bbox": box, "score": found.score}
                    results.append({**entry, "category_id": found.category})
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = {
            "images": images,
            "annotations": truth,
            "categories": [{"id": number} for number in range(1, CLASSES + 1)],
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(evaluation.stats[position]) for position in (0, 1, 2, 8)]


@pytest.mark.parametrize("seed", range(4))
def test_as_if_images_were_repeated(seed: int) -> None:
    case = Case(seed)
    drawn = bootstrap.draw(IMAGES, 30, seed)
    figures = bootstrap.resampled(case.evaluation(), drawn)
    for number in range(30):
        expected = repeated(case, drawn[:, number].tolist())
        got = [float(values[number]) for values in astuple(figures)]
        assert got == pytest.approx(expected, abs=1e-9)
    assert len({round(float(value), 6) for value in figures.ap}) > 20


def test_each_image_once_is_the_figure_itself() -> None:
    for seed in range(20):
        evaluation = Case(seed).evaluation()
        once = bootstrap.resampled(evaluation, np.ones((IMAGES, 1), np.uint16))
        got = [float(values[0]) for values in astuple(once)]
        assert got == pytest.approx(astuple(evaluation.scores), abs=1e-12)


def test_recalls_as_coco_rounds_them() -> None:
    """With a hundred objects each hundredth of recall is reached exactly, and some are missed."""
    pictures = [Picture(1, "a.jpg", SIDE, SIDE)]
    corners = [(float(20 * (n % 10)), float(20 * (n // 10))) for n in range(100)]
    objects = [Annotated(1, 1, (x, y, 18.0, 18.0), 324.0, False) for x, y in corners]
    found = [
        Detection(1, 1, [y / SIDE, x / SIDE, (y + 18) / SIDE, (x + 18) / SIDE], 0.9 - n / 1000)
        for n, (x, y) in enumerate(corners[:57])
    ]
    evaluation = scoring.evaluate(pictures, objects, [1], found)
    once = bootstrap.resampled(evaluation, np.ones((1, 1), np.uint16))
    assert evaluation.scores.ap == pytest.approx(57 / 101)  # 0, 0.01, ... 0.56, and not 0.57
    assert float(once.ap[0]) == pytest.approx(evaluation.scores.ap, abs=1e-12)


def test_resamples() -> None:
    drawn = bootstrap.draw(50, 400)
    assert drawn.shape == (50, 400)
    assert set(drawn.sum(axis=0)) == {50}
    # Each image is drawn once on average, and left out with probability (1 - 1/50) ** 50 = 0.364.
    assert np.abs(drawn.mean(axis=1) - 1).max() < 0.25
    assert np.mean(drawn == 0) == pytest.approx(0.364, abs=0.01)
    assert np.array_equal(drawn, bootstrap.draw(50, 400))
    assert not np.array_equal(drawn, bootstrap.draw(50, 400, seed=1))


def one_object_each(found: Sequence[bool]) -> Evaluation:
    """Images with one object each; it is found exactly, or not at all."""
    pictures = [Picture(n, f"{n}.jpg", SIDE, SIDE) for n in range(len(found))]
    objects = [Annotated(n, 1, (20.0, 20.0, 40.0, 40.0), 1600.0, False) for n in range(len(found))]
    seen = [Detection(n, 1, [0.1, 0.1, 0.3, 0.3], 0.9) for n, hit in enumerate(found) if hit]
    return scoring.evaluate(pictures, objects, [1], seen)


def figures_of(found: Sequence[bool]) -> Figures:
    return bootstrap.resampled(one_object_each(found), bootstrap.draw(len(found)))


def test_the_interval_of_a_share() -> None:
    """Recall is then the share of images with a find; its standard error is in any textbook."""
    hits = [n % 4 != 0 for n in range(400)]
    found = bootstrap.interval(figures_of(hits).ar100)
    half = 1.645 * math.sqrt(0.75 * 0.25 / 400)
    assert found.low == pytest.approx(0.75 - half, abs=0.005)
    assert found.high == pytest.approx(0.75 + half, abs=0.005)
    assert found.holds(0.75)
    assert not found.holds(0.70)


def test_the_interval_of_a_difference_is_that_of_pairs() -> None:
    """Subjects that differ in 20 of 400 images are told apart; each alone is not known so well."""
    better = [n % 4 != 0 for n in range(400)]
    worse = [hit and n % 20 != 1 for n, hit in enumerate(better)]
    difference = figures_of(worse).ar100 - figures_of(better).ar100
    found = bootstrap.interval(difference)
    half = 1.645 * math.sqrt(0.05 * 0.95 / 400)
    assert found.low == pytest.approx(-0.05 - half, abs=0.005)
    assert found.high == pytest.approx(-0.05 + half, abs=0.005)
    assert not found.holds(0)
    alone = bootstrap.interval(figures_of(worse).ar100)
    assert alone.high - alone.low > 1.8 * (found.high - found.low)


def test_twins_do_not_differ() -> None:
    case = Case(1)
    drawn = bootstrap.draw(IMAGES)
    source = bootstrap.resampled(case.evaluation(), drawn)
    twin = bootstrap.resampled(Case(1).evaluation(), drawn)
    assert bootstrap.interval(twin.ap - source.ap) == Interval(0.0, 0.0)


def test_resamples_without_any_object_say_nothing() -> None:
    pictures = [Picture(n, f"{n}.jpg", SIDE, SIDE) for n in range(3)]
    objects = [Annotated(0, 1, (20.0, 20.0, 40.0, 40.0), 1600.0, False)]
    found = [Detection(0, 1, [0.1, 0.1, 0.3, 0.3], 0.9), Detection(1, 1, [0, 0, 1, 1], 0.95)]
    evaluation = scoring.evaluate(pictures, objects, [1], found)
    drawn = np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]], np.uint16)
    figures = bootstrap.resampled(evaluation, drawn)
    assert math.isnan(figures.ap[0])
    # Behind none, and behind one wrong detection.
    assert figures.ap[1:].tolist() == pytest.approx([1, 2 / 3])
    assert bootstrap.interval(figures.ap).low > 0.5
