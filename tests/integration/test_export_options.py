"""Options of the export, judged by the model's own post-processing, by runtimes and by clients.

One small SSD whose configuration suppresses within each class, as the Object Detection API's own
pipeline then does. A file with regular NMS must find the same, at other thresholds, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from families import CLASSES, FAMILIES, FED, laid_out
from support import Stages, Wanted

from kiln.core.stage_result import StageResult
from kiln.tflite.inspect import inspect
from stages.detect import detector, matching
from stages.files import pixels
from stages.tflite import tflite_meta, tflite_model

PHOTOS = ("camera.png", "chelsea.png", "coffee.png")
FAMILY = FAMILIES["ssd_mobilenet_v2"]

#: In the configuration; few enough of a class that its best ones are cut off.
OF_A_CLASS, IOU = 4, 0.45
#: Wanted of the export, instead of the configuration's 1e-8.
SCORE = 0.4
REGULAR = {"regular_nms": True, "nms_score_threshold": SCORE}
VARIANTS = ("float32", "int8")
ROLES = ["boxes", "classes", "scores", "count"]
#: How many detections there are to compare.
LEAST = 30
SUPPRESSION = {
    "regular": True,
    "score_threshold": SCORE,
    "iou_threshold": IOU,
    "detections_per_class": OF_A_CLASS,
}


@dataclass(frozen=True)
class Made:
    """The results of all stages, and the photos."""

    ran: dict[str, StageResult]
    stages: Stages
    photos: Path

    def bytes_of(self, step: str) -> bytes:
        return self.stages.model(self.ran[step])

    def found(self, step: str) -> dict[str, list[dict[str, Any]]]:
        """What a file finds in LiteRT, by photo."""
        model = detector.Detector(self.bytes_of(step))
        return {name: model.detect(pixels.load_rgb(self.photos / name)) for name in PHOTOS}


@pytest.fixture(scope="module")
def made(stages: Stages, images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("options")
    text = FAMILY.config.replace("iou_threshold: 0.6", f"iou_threshold: {IOU}")
    text = text.replace("per_class: 100", f"per_class: {OF_A_CLASS}")
    assert text != FAMILY.config
    photos, labels, config = laid_out(place, text, images_folder, PHOTOS)
    checkpoint = {"checkpoint": ("trained", "model")}
    norm = {"mean": [127.5] * 3, "std": [127.5] * 3}
    known = {"architecture": "ssd", "num_classes": len(CLASSES), "normalization": norm}
    seen = {"images": photos, "label_map": labels}
    wanted = [
        Wanted(
            "trained",
            "make_checkpoint",
            {"seed": FAMILY.seed, "stand_out": 200},
            {"pipeline_config": config, "images": photos},
        ),
        Wanted("export", "export", REGULAR, checkpoint),
        Wanted("reference", "reference", REGULAR, {**checkpoint, "images": photos}),
    ]
    own: dict[str, dict[str, Any]] = {"float32": {}, "int8": {"inference_io": "int8"}}
    for variant, more in own.items():
        graph = {"saved_model": ("export", "saved_model"), "images": photos}
        params = {"variant": variant, "suppression": SUPPRESSION, "feeding": FED, **more}
        wanted.append(Wanted(f"convert-{variant}", "convert", params, graph))
    for variant in VARIANTS:
        params = {**known, "feeding": FED, "output_order": "tf1", "role_names": True}
        given = {"model": (f"convert-{variant}", "model.tflite"), "label_map": labels}
        wanted.append(Wanted(f"annotate-{variant}", "annotate", params, given))
    for variant, more in own.items():
        model = {"model": (f"annotate-{variant}", "model.tflite")}
        source = {"source": ("reference", "detections.json")}
        params = {**known, "variant": variant, "nms_score_threshold": SCORE, **more}
        wanted.append(Wanted(f"check-{variant}", "check", params, {**model, **seen, **source}))
    for variant in VARIANTS:
        checked = {
            "model": (f"annotate-{variant}", "model.tflite"),
            "found": (f"check-{variant}", "check.json"),
            "pixels": (f"check-{variant}", "pixels"),
        }
        params = {"nms_score_threshold": SCORE}
        wanted.append(Wanted(f"library-{variant}", "task_library", params, checked))
    wanted.append(Wanted("autograph", "autograph_wanted", {}, checkpoint))
    return Made(stages.run(*wanted), stages, photos)


def test_a_model_is_traced_with_autograph_only_where_its_code_needs_that(made: Made) -> None:
    facts = made.ran["autograph"].facts
    assert facts["rewritten"] == 0
    assert facts["models"] == [1, 2], "the second export began anew"
    assert facts["conditions"] == [[], ["StatelessIf"]]


def test_what_the_export_says(made: Made) -> None:
    found = made.ran["export"].facts["suppression"]
    assert found == {**SUPPRESSION, "iou_threshold": found["iou_threshold"]}
    assert found["iou_threshold"] == pytest.approx(IOU, rel=1e-6)  # float32 in the configuration
    for variant in VARIANTS:
        options = inspect(made.bytes_of(f"annotate-{variant}")).as_json()["postprocess"]
        assert options["use_regular_nms"] is True
        assert options["nms_score_threshold"] == pytest.approx(SCORE)
        assert options["nms_iou_threshold"] == pytest.approx(IOU)
        assert options["detections_per_class"] == OF_A_CLASS


def test_it_finds_what_the_model_s_own_pipeline_finds(made: Made) -> None:
    own = made.stages.json(made.ran["reference"], "detections.json")["images"]
    found = made.found("annotate-float32")
    by_class: list[int] = []
    for photo in PHOTOS:
        sure = [item for item in own[photo] if item["score"] >= SCORE]
        for item in found[photo]:  # the pipeline's boxes end where the image does
            item["box"] = [min(max(side, 0.0), 1.0) for side in item["box"]]
        pairs = matching.match(sure, found[photo], 0.99)
        assert len(pairs) == len(sure) == len(found[photo]), photo
        for pair in pairs:
            assert abs(sure[pair.left]["score"] - found[photo][pair.right]["score"]) < 1e-4
        by_class += Counter(item["class_id"] for item in sure).values()
    # Both limits had something to do.
    assert sum(by_class) >= LEAST
    assert max(by_class) == OF_A_CLASS > min(by_class)
    assert min(item["score"] for items in own.values() for item in items) < SCORE


def test_outputs_are_in_tensorflow_1_s_order_under_their_roles(made: Made) -> None:
    for variant in VARIANTS:
        found = inspect(made.bytes_of(f"annotate-{variant}")).as_json()
        assert found["output_order"] == "tf1"
        assert [item["signature_name"] for item in found["outputs"]] == ROLES
        assert made.ran[f"annotate-{variant}"].facts["output_order"] == ROLES


def test_the_gates_pass(made: Made) -> None:
    statuses = {
        (variant, gate["gate"]): gate["status"]
        for variant in VARIANTS
        for step in ("check", "library")
        for gate in made.stages.json(made.ran[f"{step}-{variant}"], "check.json")["gates"]
    }
    assert statuses.pop(("int8", "runtime-task-library")) == "skipped"
    assert statuses[("float32", "runtime-task-library")] == "passed"
    assert set(statuses.values()) == {"passed"}


def test_today_s_runtimes_read_both(made: Made, device_stages: Stages, tmp_path: Path) -> None:
    checked = {}
    for variant in VARIANTS:
        folder = made.stages.lay_out(made.ran[f"check-{variant}"], tmp_path / variant)
        checked[variant] = (made.bytes_of(f"annotate-{variant}"), folder)
    statuses = device_stages.gates_in_runtimes(checked, {})
    for (variant, name), gate in statuses.items():
        assert not gate["problems"], (variant, name, gate)
    assert statuses[("int8", "runtime-litert")]["status"] == "passed"
    assert "microcontrollers" in statuses[("int8", "runtime-mediapipe")]["summary"]


def test_an_int8_input_takes_pixels_minus_128(made: Made) -> None:
    (image,) = inspect(made.bytes_of("annotate-int8")).as_json()["inputs"]
    assert image["type"] == "int8"
    assert image["scale"] == pytest.approx([2 / 255], rel=1e-4)
    assert image["zero_point"][0] in (-1, 0)
    metadata = tflite_meta.read(tflite_model.read(made.bytes_of("annotate-int8")))
    assert metadata is not None
    (described,) = metadata.inputs
    assert (described.min, described.max) == ((-128.0,), (127.0,))
    assert "minus 128" in described.description
