"""Every sample finds what is really there, under its right name, in every variant."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accuracy
import photo_scenes
import pytest
import scenes
from scenes import Scene
from support import SAMPLES, VARIANTS, Stages, Wanted

from stages.detect import detector
from stages.files import labelmap, pixels

COUNT = 24
LEAST = 0.5
INT8_LOSS = 0.05

Detections = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Truth:
    """A sample's scenes by file name, the folder that holds them, and the names of classes."""

    scenes: dict[str, Scene]
    folder: Path
    names: dict[int, str]


def _scene(sample: str, number: int, side: int, photos: Path, ids: dict[str, int]) -> Scene:
    seed = scenes.VALIDATION + number
    if sample == "ssd_mobilenet_v2_oidv4":
        return photo_scenes.photo_scene(seed, side, photos, ids)
    return scenes.scene(seed, side, side)


@pytest.fixture(scope="module", params=SAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    """A sample's name."""
    return str(request.param)


@pytest.fixture(scope="module")
def truth(name: str, project: Path, images_folder: Path, area: Path) -> Truth:
    """Scenes of the sample's own kind that it was neither trained nor calibrated on."""
    items = labelmap.load(project / "models" / "samples" / name / "label_map.pbtxt").items
    names = {item.id: item.label for item in items}
    ids = {label: number for number, label in names.items()}
    side = SAMPLES[name]
    made = {
        f"{number:03}.png": _scene(name, number, side, images_folder, ids)
        for number in range(COUNT)
    }
    return Truth(made, accuracy.save(made, area / "scenes" / name), names)


@pytest.fixture(scope="module")
def in_image(
    name: str, truth: Truth, samples: Any, stages_for: Callable[[str], Stages]
) -> dict[str, Detections]:
    """By variant: what TensorFlow's interpreter finds inside the image."""
    stages = stages_for(name)
    slow = stages.image.name == "modelmaker"
    found = stages.run(
        *(
            Wanted(
                variant,
                "detect",
                {"reference_kernels": slow and variant in ("dynamic", "int8")},
                {"model": samples[name].artefact(variant), "images": truth.folder},
            )
            for variant in VARIANTS
        )
    )
    return {v: stages.json(found[v], "detections.json")["images"] for v in VARIANTS}


@pytest.fixture(scope="module")
def outside(name: str, truth: Truth, samples: Any) -> dict[str, Detections]:
    """By variant: what today's LiteRT finds on the host."""
    found = {}
    for variant in VARIANTS:
        model = detector.load(samples[name].artefact(variant))
        assert model.runtime.startswith("ai_edge_litert")
        found[variant] = {
            path.name: model.detect(pixels.load_rgb(path))
            for path in pixels.list_images(truth.folder)
        }
    return found


# (That the image's interpreter finds what LiteRT finds, test_where_it_runs says of photographs.)
@pytest.mark.parametrize("where", [pytest.param("in_image", marks=pytest.mark.nightly), "outside"])
def test_a_sample_finds_its_objects(
    name: str, truth: Truth, where: str, request: pytest.FixtureRequest
) -> None:
    found: dict[str, Detections] = request.getfixturevalue(where)
    measured = {v: accuracy.average_precision(truth.scenes, found[v]) for v in VARIANTS}
    print(f"{name} {where}: {json.dumps({k: round(v, 3) for k, v in measured.items()})}")
    for variant in ("float32", "float16", "dynamic"):
        assert measured[variant] >= LEAST, measured
    assert measured["int8"] >= measured["float32"] - INT8_LOSS, measured


def test_objects_have_their_right_names(
    name: str, truth: Truth, outside: dict[str, Detections]
) -> None:
    """The label that the artefact gives is the label map's name for what is really there."""
    for variant in VARIANTS:
        for file, items in outside[variant].items():
            assert items, (variant, file)
            assert items[0]["label"] == truth.names[items[0]["class_id"]], (variant, file)


def test_wrong_classes_would_show(truth: Truth, outside: dict[str, Detections]) -> None:
    """The measure can fail: with class ids off by one, next to nothing is right."""
    wrong = {
        file: [{**item, "class_id": item["class_id"] + 1} for item in items]
        for file, items in outside["float32"].items()
    }
    assert accuracy.average_precision(truth.scenes, wrong) < 0.1
