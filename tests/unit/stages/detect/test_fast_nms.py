"""stages.detect.fast_nms: the rule of TFLite's detection operator."""

from __future__ import annotations

import numpy as np

from stages.detect.fast_nms import keep, select, select_by_class

BOXES = np.array(
    [
        [0.0, 0.0, 0.5, 0.5],
        [0.0, 0.0, 0.5, 0.45],  # overlaps the first by 0.9
        [0.5, 0.5, 1.0, 1.0],  # touches the first in a corner
        [0.2, 0.2, 0.2, 0.6],  # empty
    ],
    np.float32,
)
SCORES = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.1]], np.float32)


def test_suppresses_across_classes() -> None:
    assert select(BOXES, SCORES, 0.0, 0.6, 10) == [(0, 0), (2, 1), (3, 0)]


def test_a_higher_overlap_is_allowed() -> None:
    assert select(BOXES, SCORES, 0.0, 0.95, 10) == [(0, 0), (1, 1), (2, 1), (3, 0)]


def test_threshold_and_limit() -> None:
    assert select(BOXES, SCORES, 0.65, 0.6, 10) == [(0, 0), (2, 1)]
    assert select(BOXES, SCORES, 0.0, 0.6, 1) == [(0, 0)]


def test_equal_scores_keep_their_order() -> None:
    scores = np.full((4, 2), 0.5, np.float32)
    assert select(BOXES, scores, 0.0, 0.95, 10) == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_within_each_class() -> None:
    """The second box overlaps the first by 0.9, but is of the other class."""
    expected = [(0, 0), (1, 1), (2, 1), (3, 0), (2, 0), (3, 1)]
    assert select_by_class(BOXES, SCORES, 0.05, 0.6, 10, 10) == expected
    assert select_by_class(BOXES, SCORES, 0.5, 0.6, 10, 10) == expected[:4]
    assert select_by_class(BOXES, SCORES, 0.05, 0.6, 10, 3) == expected[:3]
    assert select_by_class(BOXES, SCORES, 0.05, 0.6, 1, 10) == [(0, 0), (1, 1)]


def test_by_the_operator_s_options() -> None:
    fast = {
        "regular": False,
        "score_threshold": None,
        "iou_threshold": 0.6,
        "detections_per_class": 1,
    }
    assert keep(BOXES, SCORES, fast, 10) == [(0, 0), (2, 1), (3, 0)]
    assert keep(BOXES, SCORES, {**fast, "score_threshold": 0.65}, 10) == [(0, 0), (2, 1)]
    assert keep(BOXES, SCORES, {**fast, "regular": True}, 10) == [(0, 0), (1, 1)]
