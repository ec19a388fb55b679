"""Average precision of detections on scenes whose objects are known, by COCO's own code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import Scene


def save(scenes: Mapping[str, Scene], folder: Path) -> Path:
    """The pictures as PNG files, by name, for stages that take a folder of images."""
    folder.mkdir(parents=True)
    for name, scene in scenes.items():
        Image.fromarray(scene.image).save(folder / name)
    return folder


def average_precision(
    scenes: Mapping[str, Scene], found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> float:
    """COCO's AP: the mean over classes and over IoU thresholds 0.5 to 0.95.

    Args:
        scenes: by file name.
        found: detections by file name, as the stage ``detect`` writes them.
    """
    numbers = {name: number for number, name in enumerate(sorted(scenes), 1)}
    assert found.keys() == numbers.keys()
    images, objects, results = [], [], []
    for name, number in numbers.items():
        height, width, _ = scenes[name].image.shape
        images.append({"id": number, "height": height, "width": width})
        for box, kind in zip(scenes[name].boxes, scenes[name].classes, strict=True):
            described = _box(box)
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": int(kind),
                    "bbox": described,
                    "area": described[2] * described[3],
                    "iscrowd": 0,
                }
            )
        for item in found[name]:
            results.append(
                {
                    "image_id": number,
                    "category_id": item["class_id"],
                    "bbox": _box(np.multiply(item["box"], [height, width, height, width])),
                    "score": item["score"],
                }
            )
    truth = COCO()
    truth.dataset = {
        "images": images,
        "annotations": objects,
        "categories": [{"id": kind} for kind in sorted({o["category_id"] for o in objects})],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a page
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _box(corners: Any) -> list[float]:
    """[ymin, xmin, ymax, xmax] as COCO's [x, y, width, height]."""
    ymin, xmin, ymax, xmax = (float(side) for side in corners)
    return [xmin, ymin, xmax - xmin, ymax - ymin]
