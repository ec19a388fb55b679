"""Options of an export that cannot be, known from the recipe and the configuration alone."""

from __future__ import annotations

import pytest

from kiln.recipes.export_options import why_not_int8

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
