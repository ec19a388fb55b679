"""Options of an export that cannot be, known from the recipe and the configuration alone."""

from __future__ import annotations

from typing import Any

import pytest
from toy_plan import plan, recipe

from kiln.recipes.export_options import contradiction, why_not_int8, why_not_raw
from kiln.recipes.plan import Output

ONE, UNLIKE = (127.5,), (123.68, 116.78, 103.94)


@pytest.mark.parametrize(
    ("architecture", "image", "extractor", "stated", "words"),
    [
        ("ssd", "odapi", "", None, ""),
        ("ssd", "odapi", "ssd_mobilenet_v2_keras", None, ""),
        ("ssd", "odapi", "ssd_resnet101_v1_fpn_keras", None, "ssd_resnet101_v1_fpn_keras normal"),
        ("efficientdet", "odapi", "", None, "an EfficientDet of the Object Detection API"),
        ("efficientdet", "modelmaker", "", None, ""),
        ("centernet", "odapi", "resnet_v2_50", None, ""),
        ("ssd", "odapi", "", (ONE, ONE), ""),
        ("ssd", "odapi", "", ((127.5, 127.5, 127.5), ONE), ""),
        ("ssd", "odapi", "", (UNLIKE, (1.0,)), "this mean and std normalise each colour channel"),
        ("ssd", "odapi", "", (ONE, UNLIKE), "this mean and std normalise each colour channel"),
    ],
)
def test_an_int8_input(
    architecture: str,
    image: str,
    extractor: str,
    stated: tuple[tuple[float, ...], tuple[float, ...]] | None,
    words: str,
) -> None:
    why = why_not_int8(["float32", "int8"], architecture, image, extractor, stated)
    assert why.startswith(words) and bool(why) == bool(words)
    assert "not among the variants" in why_not_int8(["float32"], architecture, image)


# --- without post-processing ------------------------------------------------------------------

DEFAULTS: dict[str, Any] = {
    "regular_nms": False,
    "nms_score_threshold": None,
    "nms_iou_threshold": None,
    "max_detections_per_class": None,
    "output_order": "tf2",
    "postprocess": "none",
}
FLOATS = ("float32", "float16")


@pytest.mark.parametrize("architecture", ["ssd", "efficientdet"])
def test_a_checkpoint_of_an_ssd_may(architecture: str) -> None:
    assert why_not_raw(DEFAULTS, architecture, "odapi", False, FLOATS) is None


@pytest.mark.parametrize(
    ("changes", "about", "option", "words"),
    [
        ({}, ("centernet", "odapi", False, FLOATS), "postprocess", "heat maps"),
        ({}, ("efficientdet", "modelmaker", False, FLOATS), "postprocess", "Model Maker's own"),
        ({}, ("ssd", "odapi", True, FLOATS), "postprocess", "an exported graph"),
        ({}, ("ssd", "odapi", False, (*FLOATS, "prebuilt")), "postprocess", "publisher's"),
        ({"output_order": "tf1"}, ("ssd", "odapi", False, FLOATS), "output_order", "in this order"),
        ({"regular_nms": True}, ("ssd", "odapi", False, FLOATS), "regular_nms", "anyway"),
    ],
)
def test_others_may_not(changes: dict[str, Any], about: Any, option: str, words: str) -> None:
    options = {**DEFAULTS, **changes}
    found = why_not_raw(options, *about)
    assert found is not None
    assert found[0] == option
    assert words in found[1]
    assert why_not_raw({**options, "postprocess": "tflite"}, *about) is None


def test_decoding_counts_by_class() -> None:
    options = {**DEFAULTS, "max_detections_per_class": 5}
    assert contradiction(options, "ssd") is None
    found = contradiction({**options, "postprocess": "tflite"}, "ssd")
    assert found is not None
    assert found[0] == "max_detections_per_class"


def test_raw_outputs_change_everything_and_are_described() -> None:
    before, after = plan(), plan(recipe(export={"postprocess": "none"}))
    assert not {step.key for step in before.steps} & {step.key for step in after.steps}
    for step in after.steps:
        wanted = step.stage in ("export", "convert", "annotate", "check")
        assert (step.params.get("postprocess") == "none") == wanted, step.id
        if step.stage == "annotate":
            assert step.inputs["decoding"] == Output("export", "decoding")
    assert plan(recipe(export={"postprocess": "tflite"})) == before
