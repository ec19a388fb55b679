"""What the page says of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import page_dist
import pytest
from feeding_files import LETTERBOX, STRETCH
from places import FIXTURES

from kiln.page import document
from kiln.page.contents import read_release
from kiln.page.model_view import Difference, Fact, ModelView, model_view

pytest.importorskip("ai_edge_litert")


def document_of(folder: Path) -> str:
    return document.render(folder.parent)


def viewed(folder: Path) -> ModelView:
    (model,) = read_release(folder.parent).models
    return model_view(model)


@pytest.mark.parametrize(
    ("export", "annotated", "said"),
    [
        ({"num_classes": 5}, {"labels": 4}, "4"),  # five ids, one of them without a name
        ({"num_classes": 90}, {}, "90"),  # Model Maker's seed is not annotated
        ({}, {}, ""),
    ],
)
def test_classes_are_those_with_a_name(
    tmp_path: Path, export: dict[str, Any], annotated: dict[str, Any], said: str
) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    stages = {"export": {"facts": export}, "annotate-int8": {"facts": annotated}}
    page_dist.change(folder / "conversion.json", stages=stages)
    assert viewed(folder).classes == said


def test_the_first_picture_is_one_that_differs(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    checks = page_dist.add_checks(folder, page_dist.toy_images(tmp_path / "images"))
    most = max(checks["images"], key=lambda name: len(checks["source"]["detections"][name]))
    view = viewed(folder)
    assert view.panels[view.first_panel].name == most
    other = next(name for name, found in checks["source"]["detections"].items()
                 if found and name != most)  # fmt: skip
    checks["variants"]["int8"]["detections"][other] = []
    page_dist.write(folder / "checks.json", checks)
    view = viewed(folder)
    assert view.panels[view.first_panel].name == other


def test_lists_of_files_are_folded_away(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    images = {f"{number}.png": f"{number}" * 64 for number in range(4)}
    source = {"kind": "stage", "calibration_images": images, "path": "/a/b", "urls": ["x", "y"]}
    page_dist.change(folder / "conversion.json", source=source)
    found = {fact.name: fact for fact in viewed(folder).origin}
    assert found["Source, calibration images"].files == tuple(
        Fact(name, digest) for name, digest in images.items()
    )
    assert found["Source, calibration images"].files[0].is_digest
    assert not found["Source, path"].is_digest
    assert found["Source, urls"].value == "x, y"


def test_what_is_built_otherwise_than_configured(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    told = {"what": "input size", "config": "300x300", "built": "480x640", "effect": "Worse."}
    page_dist.change(
        folder / "conversion.json", differences=[told, {"what": 3}, "no", {}, *[told] * 99]
    )
    found = viewed(folder).differences
    assert found[0] == Difference("input size", "300x300", "480x640", "Worse.")
    assert set(found) == {found[0]}
    assert len(found) < 60
    page_dist.change(folder / "conversion.json", differences="none")
    assert viewed(folder).differences == ()


BUILT = {
    "regular": False, "score_threshold": 0.05000000074505806, "iou_threshold": 0.5,
    "detections_per_class": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("params", "built", "words"),
    [
        ({}, {}, ""),
        ({"regular_nms": False, "nms_score_threshold": None}, {}, ""),
        ({"nms_score_threshold": 0.05}, {}, "across classes (fast NMS), from an overlap (IoU) of"),
        ({"nms_iou_threshold": 0.5}, {}, "(IoU) of 0.5, scores below 0.05 left out"),
        ({"nms_iou_threshold": 0.5}, {"score_threshold": None}, "(IoU) of 0.5"),
        (
            {"regular_nms": True, "max_detections_per_class": 10},
            {"regular": True, "detections_per_class": 10},
            "within each class (regular NMS), from an overlap (IoU) of 0.5, scores below 0.05 left"
            " out, at most 10 of a class",
        ),
        ({"regular_nms": True}, {"iou_threshold": "x", "score_threshold": []}, "across classes"),
    ],
)
def test_how_boxes_are_suppressed_where_that_was_chosen(
    tmp_path: Path, params: dict[str, Any], built: dict[str, Any], words: str
) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    stages = page_dist.read(folder / "conversion.json")["stages"]
    stages["export"]["params"] = params
    stages["export"]["facts"]["suppression"] = {**BUILT, **built}
    page_dist.change(folder / "conversion.json", stages=stages)
    said = viewed(folder).suppression
    assert words in said and bool(words) == bool(said)
    assert ("score" in said) == (bool(words) and built.get("score_threshold", 1) == 1)


def test_the_order_of_outputs_where_it_was_chosen(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    assert viewed(folder).output_order == ""
    stages = page_dist.read(folder / "conversion.json")["stages"]
    order = ["boxes", "classes", "scores", "count"]
    stages["annotate-float32"] = {
        "params": {"output_order": "tf1"},
        "facts": {"output_order": [*order, 3]},
    }
    page_dist.change(folder / "conversion.json", stages=stages)
    assert viewed(folder).output_order == "boxes, classes, scores, count"


def with_fits(folder: Path, figures: dict[str, Any]) -> None:
    """Add the gate ``feeding`` with these figures to the float32 file's checks."""
    checks = page_dist.read(folder / "checks.json")
    gate = {"gate": "feeding", "status": "passed", "summary": "", "problems": []}
    checks["variants"]["float32"]["gates"].append({**gate, "figures": figures})
    page_dist.write(folder / "checks.json", checks)


def words_of(view: ModelView, variant: str) -> tuple[str, ...]:
    return next(use.feeding for use in view.uses if use.variant.name == variant)


def test_how_to_feed_a_letterboxed_model(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    page_dist.state_feeding(folder, LETTERBOX)
    page_dist.add_checks(folder, page_dist.toy_images(tmp_path / "images"))
    with_fits(folder, {"described": 0.998, "letterbox": 0.99, "stretch": 0.7112, "best": "x"})
    view = viewed(folder)
    how = (
        "Letterbox to 8 × 8: keep the proportions, top left, rest filled with 0,0,0; "
        "TensorFlow 1’s sampling"
    )
    assert view.feeding == how
    assert words_of(view, "float32") == (
        f"{how}.",
        "The Task Library and MediaPipe stretch pictures: on check images of another shape than "
        "the input’s, its agreement with the source model is then 0.711 instead of 0.998. So the "
        "code below gives them a picture that is letterboxed already.",
    )
    assert "what that costs was not measured" in words_of(view, "int8")[1]
    assert "feeding" in [check.name for check in view.checks]
    assert how in document_of(folder)


def test_raw_outputs_are_told_and_no_client_is_promised(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    raw = (FIXTURES / "toy_raw_annotated.tflite").read_bytes()
    (folder / "toy_float32.tflite").write_bytes(raw)
    page_dist.state_feeding(folder, LETTERBOX)
    page_dist.add_checks(folder, page_dist.toy_images(tmp_path / "images"))
    with_fits(folder, {"described": 0.998, "stretch": 0.7112})
    first, _, last = words_of(viewed(folder), "float32")
    assert first.startswith("The file has no post-processing: ")
    assert last.startswith("Where a program stretches pictures in the usual way: ")
    assert "raw boxes" in document_of(folder)
    assert not any("no post-processing" in words for words in words_of(viewed(folder), "int8"))


def test_how_to_feed_a_stretched_model(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    page_dist.state_feeding(folder, {**STRETCH, "sampling": "corner"})
    page_dist.add_checks(folder, page_dist.toy_images(tmp_path / "images"))
    with_fits(folder, {"described": 0.998, "stretch": 0.991})
    view = viewed(folder)
    assert view.feeding.startswith("Stretch to 8 × 8: ")
    assert words_of(view, "float32")[1] == (
        "The Task Library and MediaPipe resize pictures in their own way: on check images of "
        "another shape than the input’s, its agreement with the source model is then 0.991 instead "
        "of 0.998."
    )
    assert len(words_of(view, "int8")) == 1


def test_a_file_that_does_not_say_how_to_feed_it(tmp_path: Path) -> None:
    view = viewed(page_dist.toy_dist(tmp_path / "dist"))
    assert view.feeding == ""
    assert words_of(view, "int8")[0].startswith("The file does not say how to feed it.")


def test_a_broken_description_is_a_notice(tmp_path: Path) -> None:
    folder = page_dist.toy_dist(tmp_path / "dist")
    page_dist.state_feeding(folder, b"<script>")
    notices = [notice.words for notice in viewed(folder).notices]
    assert any("How to feed it cannot be read: feeding.json is not valid" in n for n in notices)
    assert "&lt;script" not in document_of(folder)  # what cannot be read is not repeated
