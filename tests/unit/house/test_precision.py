"""The training scripts' average precision is COCO's."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import precision
import pytest
import scenes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE = 256


def truth() -> list[list[Any]]:
    drawn = [scenes.scene(scenes.VALIDATION + number, SIDE, SIDE) for number in range(25)]
    return [list(zip(scene.boxes, scene.classes, strict=True)) for scene in drawn]


def guesses(seed: int, objects: list[list[Any]]) -> list[list[Any]]:
    """Boxes moved by a few pixels, missed, doubled, of wrong classes, or of nothing."""
    random = np.random.default_rng(seed)
    found = []
    for picture in objects:
        items = []
        for box, kind in picture:
            for _ in range(random.integers(0, 3)):
                label = kind if random.random() < 0.9 else random.choice(list(scenes.CLASSES))
                items.append((box + random.normal(0, 1 + seed, 4), int(label), random.random()))
        for _ in range(2):
            corner = random.uniform(0, 150, 2)
            items.append((np.concatenate([corner, corner + 50]), 1, random.random() / 2))
        found.append(items)
    return found


def coco(found: list[list[Any]], objects: list[list[Any]]) -> float:
    def sides(box: Any) -> list[float]:
        return [float(v) for v in (box[1], box[0], box[3] - box[1], box[2] - box[0])]

    annotations: list[dict[str, Any]] = [
        {
            "image_id": picture,
            "category_id": int(kind),
            "bbox": sides(box),
            "area": float((box[2:] - box[:2]).prod()),
            "iscrowd": 0,
        }
        for picture, items in enumerate(objects, 1)
        for box, kind in items
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    detections = [
        {"image_id": picture, "category_id": kind, "bbox": sides(box), "score": float(score)}
        for picture, items in enumerate(found, 1)
        for box, kind, score in items
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [
                {"id": picture, "height": SIDE, "width": SIDE}
                for picture in range(1, len(objects) + 1)
            ],
            "annotations": annotations,
            "categories": [{"id": kind} for kind in scenes.CLASSES],
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_pycocotools_says(seed: int) -> None:
    objects = truth()
    found = guesses(seed, objects)
    ours = precision.average_precision(found, objects)
    assert 0 < ours < 1
    assert ours == pytest.approx(coco(found, objects), abs=1e-12)


def test_perfect_and_empty() -> None:
    objects = truth()
    perfect = [[(box, kind, 0.9) for box, kind in picture] for picture in objects]
    assert precision.average_precision(perfect, objects) == 1.0
    assert precision.average_precision([[] for _ in objects], objects) == 0.0
