"""Scenes whose objects are known, as a data set and for kiln's own measure of detections."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from scenes import Scene

from kiln.measure import scoring
from kiln.measure.coco import Annotated, Picture
from kiln.measure.scoring import Detection


def save(scenes: Mapping[str, Scene], folder: Path) -> Path:
    """The pictures as PNG files, by name, for stages that take a folder of images."""
    folder.mkdir(parents=True)
    for name, scene in scenes.items():
        Image.fromarray(scene.image).save(folder / name)
    return folder


def data_set(
    scenes: Mapping[str, Scene], names: Mapping[int, str], root: Path, first: int = 1
) -> Path:
    """The scenes in COCO's layout; category ids are not the label map's.

    Args:
        names: class id to the category's name.
        first: the first image's id.
    """
    save(scenes, root / "images")
    pictures = _pictures(scenes, first)
    table = {
        "images": [
            {"id": p.id, "file_name": p.file, "height": p.height, "width": p.width}
            for p in pictures.values()
        ],
        "annotations": [
            {
                "id": number,
                "image_id": item.picture,
                "category_id": 100 - item.category,
                "bbox": item.box,
                "area": item.area,
                "iscrowd": 0,
            }
            for number, item in enumerate(_objects(scenes, pictures), 1)
        ],
        "categories": [{"id": 100 - number, "name": name} for number, name in names.items()],
    }
    (root / "instances.json").write_text(json.dumps(table))
    return root


def average_precision(
    scenes: Mapping[str, Scene], found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> float:
    """COCO's AP: the mean over classes and over IoU thresholds 0.5 to 0.95.

    Args:
        scenes: by file name.
        found: detections by file name, as the stage ``detect`` writes them.
    """
    assert found.keys() == scenes.keys()
    pictures = _pictures(scenes)
    objects = list(_objects(scenes, pictures))
    results = [
        Detection(pictures[name].id, item["class_id"], item["box"], item["score"])
        for name, items in found.items()
        for item in items
    ]
    categories = {item.category for item in objects}
    return scoring.evaluate(pictures.values(), objects, categories, results).scores.ap


def _pictures(scenes: Mapping[str, Scene], first: int = 1) -> dict[str, Picture]:
    return {
        name: Picture(number, name, *scenes[name].image.shape[:2])
        for number, name in enumerate(sorted(scenes), first)
    }


def _objects(scenes: Mapping[str, Scene], pictures: Mapping[str, Picture]) -> Iterator[Annotated]:
    for name, picture in pictures.items():
        for corners, kind in zip(scenes[name].boxes, scenes[name].classes, strict=True):
            ymin, xmin, ymax, xmax = map(float, corners)
            box = (xmin, ymin, xmax - xmin, ymax - ymin)
            yield Annotated(picture.id, int(kind), box, box[2] * box[3], False)
