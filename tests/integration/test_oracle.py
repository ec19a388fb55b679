"""The source model's detections are its authors' own, and artefacts that are fed as they say agree.

A third party's path stands beside the stage ``reference``: the SavedModel that the Object Detection
API's ``exporter_main_v2`` writes. Of EfficientDet D0 that takes a minute, and is left to `make
nightly`; here stands the module that it would write.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES
from PIL import Image
from support import Stages, Wanted, iou

#: Proportions of the photographs (width, height).
SHAPES = {"1-1": (1, 1), "4-3": (4, 3), "16-9": (16, 9), "9-16": (9, 16), "3-1": (3, 1)}
THIRD_PARTY = ("ssd_mobilenet_v2", "centernet_mobilenet_v2_fpn", "efficientdet_d0")
SLOW = "efficientdet_d0"  # to save

LETTERBOXED = "centernet_mobilenet_v2_fpn_shapes"
SURE = 0.3
SMALL = 16  # pixels of the input: boxes below are too small to hold their overlap

_NOISE_SIZES = [[120, 160], [90, 211], [301, 97], [64, 64]]
_KEPT = "keep_aspect_ratio_resizer { min_dimension: 128 max_dimension: 128 %s }"
_PADDED = _KEPT % "pad_to_max_dimension: true %s"
_FIXED = "fixed_shape_resizer { height: 96 width: 160 %s }"
_FILLED = "per_channel_pad_value: 0.1 per_channel_pad_value: 0.2 per_channel_pad_value: 0.3"
#: Resizers by name.
RESIZERS = {
    "padded": _PADDED % "",
    "filled": _PADDED % _FILLED,
    "unpadded": _KEPT % "",
    "fixed": _FIXED % "",
    "nearest": _PADDED % "resize_method: NEAREST_NEIGHBOR",
    "nearest-fixed": _FIXED % "resize_method: NEAREST_NEIGHBOR",
    "bicubic": _PADDED % "resize_method: BICUBIC",
    "area": _PADDED % "resize_method: AREA",
    "area-fixed": _FIXED % "resize_method: AREA",
}
#: By architecture: how near input values are. They go from -1 to 1, and to 255.
NEAR = {"ssd": 1e-4, "center_net": 1e-2}


def cut(source: Path, target: Path) -> Path:
    """Write the middle of a picture in each of :data:`SHAPES`."""
    target.mkdir(exist_ok=True)
    image = Image.open(source).convert("RGB")
    for name, (across, down) in SHAPES.items():
        width = min(image.width, image.height * across // down)
        height = width * down // across
        left, top = (image.width - width) // 2, (image.height - height) // 2
        crop = image.crop((left, top, left + width, top + height))
        crop.save(target / f"{source.stem}-{name}.png")
    return target


def theirs(name: str, place: Path, photos: Path, *, saved: bool) -> list[Wanted]:
    """A checkpoint, and what the exporter's code finds with it."""
    config = place / f"{name}.config"
    config.write_text(FAMILIES[name].config)
    params = {"seed": FAMILIES[name].seed, "stand_out": 60}
    inputs = {"checkpoint": (name, "model"), "images": photos}
    return [
        Wanted(name, "make_checkpoint", params, {"pipeline_config": config, "images": photos}),
        Wanted(f"{name}-theirs", "exporter_graph", {"saved": saved}, inputs),
    ]


def own(name: str, photos: Path) -> Wanted:
    """What the stage ``reference`` finds with it."""
    inputs = {"checkpoint": (name, "model"), "images": photos}
    return Wanted(f"{name}-own", "reference", {}, inputs)


@pytest.fixture(scope="module")
def ran(
    samples: Any,
    stages: Stages,
    images_folder: Path,
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Any]:
    """Results of all stages of this file, run in one container."""
    place = tmp_path_factory.mktemp("oracle")
    photos = cut(images_folder / "coffee.png", place / "photos")
    wanted = []
    for name in THIRD_PARTY:
        wanted += [*theirs(name, place, photos, saved=name != SLOW), own(name, photos)]
    scenes = place / "scenes"
    for number in (0, 3, 7):
        cut(project / "models" / "samples" / "shapes" / f"scene_{number:02}.png", scenes)
    sample = samples[LETTERBOXED]
    inputs = {"model": sample.artefact("float32"), "images": scenes}
    model = sample.output("checkpoint", "model/", place / "checkpoint")
    wanted += [
        Wanted("scenes-own", "reference", {}, {"checkpoint": model, "images": scenes}),
        Wanted("scenes", "detect", {}, inputs),
        Wanted("scenes-stretched", "detect", {"fit": "stretch"}, inputs),
    ]
    params = {
        "configs": {
            "ssd": FAMILIES["ssd_mobilenet_v2"].config,
            "center_net": FAMILIES["centernet_mobilenet_v2_fpn"].config,
        },
        "resizers": RESIZERS,
        "shapes": _NOISE_SIZES,
    }
    wanted.append(Wanted("pixels", "resizer_pixels", params, {}))
    return stages.run(*wanted)


@pytest.mark.parametrize("name", THIRD_PARTY)
def test_the_reference_is_what_the_exporter_s_graph_finds(
    ran: Mapping[str, Any], stages: Stages, name: str
) -> None:
    agree(ran, stages, name)


@pytest.mark.nightly
def test_and_what_the_slow_one_s_graph_finds(
    stages: Stages, images_folder: Path, tmp_path: Path
) -> None:
    photos = cut(images_folder / "coffee.png", tmp_path / "photos")
    wanted = theirs(SLOW, tmp_path, photos, saved=True)
    agree(stages.run(*wanted, own(SLOW, photos)), stages, SLOW)


def agree(ran: Mapping[str, Any], stages: Stages, name: str) -> None:
    """The same detections in the same order."""
    ours = stages.json(ran[f"{name}-own"], "detections.json")["images"]
    found = stages.json(ran[f"{name}-theirs"], "detections.json")
    assert ours.keys() == found.keys() == {f"coffee-{shape}.png" for shape in SHAPES}
    for image, items in found.items():
        assert len(items) == len(ours[image]) > 10, image
        for one, other in zip(ours[image], items, strict=True):
            assert one["class_id"] == other["class_id"], image
            assert one["score"] == pytest.approx(other["score"], abs=1e-4), image
            assert one["box"] == pytest.approx(other["box"], abs=1e-4), image
    assert max(item["score"] for items in found.values() for item in items) > 2 * SURE


def test_fed_as_described_a_letterboxed_model_finds_what_it_should(
    ran: Mapping[str, Any], stages: Stages
) -> None:
    own = stages.json(ran["scenes-own"], "detections.json")["images"]
    found = stages.json(ran["scenes"], "detections.json")["images"]
    sure = compared = 0
    for image, items in own.items():
        # The input's side is 256 pixels; the photograph's longer side covers it.
        with_size = [(item, _pixels(item["box"], image)) for item in items]
        for item, sides in with_size:
            if item["score"] < SURE + 0.02:
                continue
            sure += 1
            same = [one for one in found[image] if one["class_id"] == item["class_id"]]
            best = max(same, key=lambda one: iou(_clipped(one["box"]), item["box"]))
            assert abs(best["score"] - item["score"]) <= 1e-3, (image, item, best)
            if min(sides) >= SMALL:
                compared += 1
                assert iou(_clipped(best["box"]), item["box"]) >= 0.99, (image, item, best)
    assert sure >= compared >= 30
    # Which says something: fed in another way, it finds less.
    stretched = stages.json(ran["scenes-stretched"], "detections.json")["images"]
    lost = sum(
        not any(
            one["class_id"] == item["class_id"]
            and one["score"] >= SURE
            and iou(one["box"], item["box"]) >= 0.5
            for one in stretched[image]
        )
        for image, items in own.items()
        for item in items
        if item["score"] >= SURE
    )
    assert lost > sure / 10


def _clipped(box: list[float]) -> list[float]:
    return [min(max(side, 0.0), 1.0) for side in box]


def _pixels(box: list[float], image: str) -> tuple[float, float]:
    """Height and width of a box in pixels of the input."""
    across, down = SHAPES[image.partition("-")[2].removesuffix(".png")]
    scale = 256 / max(across, down)
    return (box[2] - box[0]) * down * scale, (box[3] - box[1]) * across * scale


def test_fed_pixels_are_the_model_s_own(ran: Mapping[str, Any]) -> None:
    facts = ran["pixels"].facts
    assert len(facts["differences"]) == 2 * len(RESIZERS)
    for case, difference in facts["differences"].items():
        assert difference <= NEAR[case.split("-")[0]], (case, facts["differences"])
    feedings = facts["feedings"]
    assert {how["sampling"] for how in feedings.values()} == {"corner"}
    assert feedings["ssd-padded"]["fill"] == pytest.approx([127.5] * 3)
    assert feedings["ssd-filled"]["fill"] == pytest.approx([140.25, 153.0, 165.75], abs=1e-3)
    assert feedings["center_net-padded"]["fill"] == [0, 0, 0]
    assert feedings["center_net-filled"]["fill"] == pytest.approx([0.1, 0.2, 0.3])
    assert feedings["ssd-fixed"]["fit"] == "stretch"
    assert facts["sizes"]["ssd-fixed"] == [96, 160]
    assert feedings["ssd-bicubic"]["interpolation"] == "bicubic"
