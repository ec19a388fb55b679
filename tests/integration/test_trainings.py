"""What trainings leave: other names, averages of weights, NaN, keypoints; found, said, or refused.

A toy's weights saved in a dozen ways (``trainings_tried``), a small SSD with averages of its
weights, and a CenterNet with averages and keypoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, FED, LABEL_MAP
from support import Stages, Wanted

from kiln.core.stage_result import StageResult

PHOTOS = ("camera.png", "chelsea.png", "coffee.png")

#: What a configuration says whose evaluation uses averages.
ASKING = "\neval_config { use_moving_averages: true }\n"

#: A keypoint task as zoo configurations have it, with a path that exists on another machine only.
KEYPOINTS = """
  keypoint_label_map_path: "/data/somewhere/else/label_map.pbtxt"
  keypoint_estimation_task {
    task_name: "corners" keypoint_class_name: "boat" task_loss_weight: 1.0
    loss {
      localization_loss { l1_localization_loss {} }
      classification_loss { penalty_reduced_logistic_focal_loss { alpha: 2.0 beta: 4.0 } }
    }
    keypoint_regression_loss_weight: 0.1 keypoint_heatmap_loss_weight: 1.0
    keypoint_offset_loss_weight: 1.0
  }
} }
"""
KEYPOINT_LABELS = LABEL_MAP.replace(
    "'boat'\n", "'boat'\n  keypoints { id: 0 label: 'bow' }\n  keypoints { id: 1 label: 'stern' }\n"
)


@pytest.fixture(scope="module")
def photos(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOS:
        (folder / name).write_bytes((images_folder / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def ran(
    stages: Stages, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StageResult]:
    """All of it, in one container."""
    place = tmp_path_factory.mktemp("trainings")
    labels, ssd = place / "labels.pbtxt", FAMILIES["ssd_mobilenet_v2"]
    labels.write_text(LABEL_MAP)
    silent, asking = place / "silent.config", place / "asking.config"
    silent.write_text(ssd.config)
    asking.write_text(ssd.config + ASKING)
    trained = {"seed": ssd.seed, "stand_out": 60, "averages": True}
    found = {"images": photos}
    wanted = [
        Wanted("tried", "trainings_tried", {}, {}),
        Wanted("silent", "make_checkpoint", trained, {"pipeline_config": silent, **found}),
        Wanted(
            "asking", "other_config", {}, {"model": ("silent", "model"), "pipeline_config": asking}
        ),
        Wanted("source-asking", "reference", {}, {"checkpoint": ("asking", "model"), **found}),
        Wanted("source-silent", "reference", {}, {"checkpoint": ("silent", "model"), **found}),
        *_raw_artefact(labels, photos),
        Wanted(
            "diverged",
            "diverged_saved_model",
            {},
            {"saved_model": ("export", "saved_model"), "label_map": labels},
        ),
        *_keypoints(place, photos),
    ]
    return stages.run(*wanted)


def _raw_artefact(labels: Path, photos: Path) -> list[Wanted]:
    """A float32 file of the weights beside the averages, held against either by the gates."""
    about = {
        "architecture": "ssd",
        "num_classes": 6,
        "normalization": {"mean": [127.5] * 3, "std": [127.5] * 3},
    }
    exported = {"saved_model": ("export", "saved_model")}
    converted = {"model": ("convert", "model.tflite"), "label_map": labels}
    return [
        Wanted("export", "export", {}, {"checkpoint": ("silent", "model")}),
        Wanted("convert", "convert", {"variant": "float32"}, exported),
        Wanted("annotate", "annotate", {**about, "feeding": FED}, converted),
        *(
            Wanted(
                f"check-{config}",
                "check",
                {**about, "variant": "float32", "prove_normalization": False},
                {
                    "model": ("annotate", "model.tflite"),
                    "source": (f"source-{config}", "detections.json"),
                    "label_map": labels,
                    "images": photos,
                },
            )
            for config in ("asking", "silent")
        ),
    ]


def _keypoints(place: Path, photos: Path) -> list[Wanted]:
    """A CenterNet with a keypoint task, its checkpoint with the heads of it."""
    family = FAMILIES["centernet_mobilenet_v2_fpn"]
    config, labels = place / "keypoints.config", place / "keypoints.pbtxt"
    config.write_text(family.config.rstrip().removesuffix("} }") + KEYPOINTS + ASKING)
    labels.write_text(KEYPOINT_LABELS)
    given = {"pipeline_config": config, "keypoint_labels": labels}
    checkpoint = {"checkpoint": ("keypoints", "model")}
    return [
        Wanted("keypoints", "make_checkpoint", {"seed": family.seed, "averages": True}, given),
        Wanted("export-keypoints", "export", {}, checkpoint),
        Wanted("found-keypoints", "reference", {}, {**checkpoint, "images": photos}),
    ]


# --- where the model is, and which of its weights ----------------------------------------------


@pytest.mark.parametrize(
    ("way", "place", "weights_from", "which", "notes"),
    [
        ("plain", "model", "raw", "good", []),
        ("root", "", "raw", "good", ["as the root of the checkpoint"]),
        ("written", "model", "raw", "good", []),
        ("named", "detection_model", "raw", "good", ["'detection_model'"]),
        ("averages", "model", "averages", "good", ["moving averages of the weights are taken"]),
        ("silent", "model", "raw", "moved", ["also has moving averages"]),
        ("nested", "loop/net", "averages", "good", ["'loop/net'", "are taken"]),
        ("averaged-root", "", "averages", "good", ["as the root", "are taken"]),
        ("none", "model", "raw", "good", ["the checkpoint has none"]),
        ("begun", "model", "raw", "good", ["the checkpoint has none"]),
        ("nan-left", "model", "averages", "good", ["are taken"]),
    ],
)
def test_taken(
    ran: dict[str, StageResult],
    way: str,
    place: str,
    weights_from: str,
    which: str,
    notes: list[str],
) -> None:
    """What the reference restores, and what the exporter is given: the right values, to the bit."""
    said = ran["tried"].facts[way]
    assert "refused" not in said, said
    assert {said["restored"], said["exported"], said["restored_again"]} == {which}
    assert (said["place"], said["weights_from"]) == (place, weights_from)
    assert said["as_it_is"] == (way in {"plain", "silent", "none", "begun"})
    assert len(said["notes"]) == len(notes), said["notes"]
    for note, words in zip(said["notes"], notes, strict=True):
        assert words in note


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("two", ["several detection models: student, teacher"]),
        ("nan", ["1 of the 10 variables", "model/_box_predictor/kernel (2 of 8)"]),
        ("part", ["have no moving average: model/_box_predictor"]),
    ],
)
def test_refused(ran: dict[str, StageResult], way: str, words: list[str]) -> None:
    kind, message, remedy = ran["tried"].facts[way]["refused"]
    assert kind == "checkpoint" and remedy
    for word in words:
        assert word in message


def test_the_api_s_own_evaluation_uses_the_same_averages(ran: dict[str, StageResult]) -> None:
    """It swaps them in with sums and differences, which round."""
    evaluated = ran["tried"].facts["evaluated"]
    assert evaluated["averages"] < 1e-5
    assert evaluated["begun"] > 0.1  # all zeros: nothing that anybody would evaluate


def test_a_savedmodel_of_a_diverged_training(ran: dict[str, StageResult]) -> None:
    kind, message, _ = ran["diverged"].facts["refused"]
    assert kind == "checkpoint"
    assert "variables of the SavedModel" in message and "kernel (1 of " in message


def test_weights_in_place_of_their_averages_are_caught_by_name(
    ran: dict[str, StageResult], stages: Stages
) -> None:
    assert ran["export"].facts["weights_from"] == "raw"
    assert ran["source-asking"].facts["weights_from"] == "averages"
    gate = _gate(ran["check-asking"], stages, "parity")
    assert gate["status"] == "failed"
    (problem,) = gate["problems"]
    assert problem["code"] == "weights"
    assert "the weights are not the model's" in problem["cause"]


def test_the_same_file_passes_beside_the_weights(
    ran: dict[str, StageResult], stages: Stages
) -> None:
    assert ran["source-silent"].facts["weights_from"] == "raw"
    gates = stages.json(ran["check-silent"], "check.json")["gates"]
    assert not [gate for gate in gates if gate["status"] == "failed"]
    assert _gate(ran["check-silent"], stages, "parity")["figures"]["pairs"] >= 10


def _gate(result: StageResult, stages: Stages, name: str) -> dict[str, Any]:
    gates = {gate["gate"]: gate for gate in stages.json(result, "check.json")["gates"]}
    found: dict[str, Any] = gates[name]
    return found


# --- keypoints ---------------------------------------------------------------------------------


def test_keypoints_are_left_out(ran: dict[str, StageResult], stages: Stages) -> None:
    """And averages are taken; export and reference compare every variable with them."""
    facts = ran["export-keypoints"].facts
    assert facts["left_out"] == ["corners"]
    assert facts["notes"] == ran["tried"].facts["averages"]["notes"]
    (said,) = (item for item in facts["differences"] if item["what"] == "keypoints")
    assert (said["config"], said["built"]) == ("corners", "none")
    assert facts["architecture"] == "center_net" and facts["untrained"] == []
    heads = ran["keypoints"].facts["variables"] - facts["variables"]
    assert heads > 0
    source = ran["found-keypoints"].facts
    assert source["variables"] == facts["variables"]
    assert source["weights_from"] == facts["weights_from"] == "averages"
    found = stages.json(ran["found-keypoints"], "detections.json")["images"]
    assert [len(items) for items in found.values()] == [100] * len(PHOTOS)
