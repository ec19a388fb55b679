"""What an export says of raw outputs; the graph itself is in the integration tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.odapi import raw_outputs
from stages.protocol.failures import StageError

ANCHORS = np.array([[0.5, 0.25, 0.1, 0.2], [0.5, 0.75, 0.3, 0.4]], np.float32)
SUPPRESSION = {"score_threshold": None, "iou_threshold": 0.6000000238, "detections_per_class": 40}


def configuration(across: bool = False) -> Any:
    """The parts of an SSD's configuration that are read."""
    coder = SimpleNamespace(y_scale=10.0, x_scale=9.0, height_scale=5.0, width_scale=4.0)
    ssd = SimpleNamespace(
        num_classes=3,
        box_coder=SimpleNamespace(faster_rcnn_box_coder=coder),
        post_processing=SimpleNamespace(
            batch_non_max_suppression=SimpleNamespace(use_class_agnostic_nms=across),
            ScoreConverter=SimpleNamespace(Name={2: "SIGMOID"}.get),
            score_converter=2,
        ),
    )
    return SimpleNamespace(model=SimpleNamespace(ssd=ssd, WhichOneof=lambda _: "ssd"))


def test_numbers_are_the_configuration_s() -> None:
    how = raw_outputs.described(configuration(), ANCHORS, SUPPRESSION, 100)
    assert np.frombuffer(how.anchors, "<f4").tolist() == ANCHORS.reshape(-1).tolist()
    assert how.scales == (10, 9, 5, 4)
    assert (how.score_converter, how.classes) == ("SIGMOID", 3)
    rule = how.suppression
    assert (rule.within, rule.score_threshold, rule.iou_threshold) == ("class", None, 0.6)
    assert (rule.max_detections_per_class, rule.max_detections) == (40, 100)


def test_across_classes_none_is_limited() -> None:
    rule = raw_outputs.described(configuration(True), ANCHORS, SUPPRESSION, 100).suppression
    assert (rule.within, rule.max_detections_per_class) == ("image", 100)


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan, np.inf])
def test_anchors_have_an_extent(value: float) -> None:
    anchors = ANCHORS.copy()
    anchors[1, 3] = value
    with pytest.raises(StageError, match="anchors without an extent"):
        raw_outputs.described(configuration(), anchors, SUPPRESSION, 100)
