"""What a wrong description of raw outputs is called. Other mistakes: the integration tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from annotate_cases import DECODING
from pictures import BLUE, GREEN, GREY, RED, picture
from tflite_files import fixture

from stages.detect import detector
from stages.gates import diagnosis
from stages.tflite import packed_files

pytest.importorskip("ai_edge_litert")

IMAGES = {"a": picture(RED, GREEN, BLUE, GREY), "b": picture(GREEN, GREY, RED, BLUE)}


def described(**changes: Any) -> detector.Detector:
    model, files = packed_files.split(fixture("toy_raw_annotated"))
    how = replace(DECODING, **changes).as_files()
    return detector.Detector(packed_files.pack(model, {**files, **how}))


def found(wrong: detector.Detector, right: detector.Detector) -> diagnosis.Finding:
    source = {name: right.detect(image) for name, image in IMAGES.items()}
    return diagnosis.diagnose(wrong, IMAGES, source, 0.5)


def test_other_anchors() -> None:
    turned = DECODING.anchors[16:] + DECODING.anchors[:16]
    finding = found(described(anchors=turned), described())
    assert finding.code == "decoding"
    assert finding.agreement == pytest.approx(1)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ((2.0, 2.0, 0.5, 0.5), (0.5, 0.5, 2.0, 2.0)),  # of centres and of sizes
        ((0.8, 8.0, 0.4, 4.0), (8.0, 0.8, 4.0, 0.4)),  # of y and of x
    ],
)
def test_exchanged_scales(right: Any, wrong: Any) -> None:
    finding = found(described(scales=wrong), described(scales=right))
    assert finding.code == "box-scales"
    assert f"y {right[0]:g}, x {right[1]:g}" in finding.cause
    assert finding.agreement == pytest.approx(1)


def test_shifted_classes_are_not_blamed_on_it() -> None:
    right = described()
    source = {
        name: [{**item, "class_id": item["class_id"] + 1} for item in right.detect(image)]
        for name, image in IMAGES.items()
    }
    assert diagnosis.diagnose(right, IMAGES, source, 0.5).code == "classes-shifted"
