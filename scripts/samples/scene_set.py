"""Write labelled scenes of an embedded sample's own kind, in COCO's layout, for `kiln accuracy`.

No sample was trained or calibrated on them: their seeds are others. Those of the SSD sample are
composed of the sample photographs, which its int8 file is calibrated on.

    usage: python -m samples.scene_set MODEL DIR [--count N]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from stages.files import labelmap

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "models" / "samples"

#: Embedded sample -> side of its input in pixels.
SIDES = {
    "ssd_mobilenet_v2_oidv4": 300,
    "centernet_mobilenet_v2_fpn_shapes": 256,
    "efficientdet_lite0_shapes": 320,
}

#: Seeds from here on, behind those that the tests use.
FIRST = 1000


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=SIDES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    (given.folder / "images").mkdir(parents=True)
    names = {
        item.id: item.label
        for item in labelmap.load(SAMPLES / given.model / "label_map.pbtxt").items
    }
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(given.count):
        scene = _scene(given.model, number, names)
        file = f"{number:03}.png"
        Image.fromarray(scene.image).save(given.folder / "images" / file)
        height, width, _ = scene.image.shape
        images.append({"id": number, "file_name": file, "height": height, "width": width})
        for box, kind in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
            objects.append(_object(len(objects) + 1, number, box, kind))
    table = {
        "info": {"description": f"{given.count} scenes for {given.model}"},
        "images": images,
        "annotations": objects,
        "categories": [{"id": number, "name": name} for number, name in names.items()],
    }
    (given.folder / "instances.json").write_text(json.dumps(table))


def _scene(model: str, number: int, names: dict[int, str]) -> Any:
    sys.path.insert(0, str(SAMPLES / "training"))  # where the trainings' scripts lie, no package
    scenes, photo_scenes = map(importlib.import_module, ("scenes", "photo_scenes"))
    seed, side = scenes.VALIDATION + FIRST + number, SIDES[model]
    if model == "ssd_mobilenet_v2_oidv4":
        ids = {name: number for number, name in names.items()}
        return photo_scenes.photo_scene(seed, side, SAMPLES / "images", ids)
    return scenes.scene(seed, side, side)


def _object(number: int, image: int, box: list[float], kind: int) -> dict[str, Any]:
    top, left, bottom, right = box
    return {
        "id": number,
        "image_id": image,
        "category_id": kind,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
    }


if __name__ == "__main__":
    main()
