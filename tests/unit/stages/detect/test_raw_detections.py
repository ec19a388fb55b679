"""Decoding and suppression, against loops that do the same one box at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from annotate_cases import DECODING

from stages.detect import matching, raw_detections
from stages.tflite.decoding import Suppression


def test_boxes_are_decoded_as_the_coder_encodes_them() -> None:
    raw = np.array([[1.0, -1.0, 0.5, -0.5]] * 4, np.float32)
    found = raw_detections.boxes(raw, DECODING)
    assert found.dtype == np.float32
    quarters = ((0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5))
    for box, (top, left) in zip(found, quarters, strict=True):
        y, x = top + 0.25 + 0.1 * 0.5, left + 0.25 - 0.1 * 0.5
        height, width = math.exp(0.1) * 0.5, math.exp(-0.1) * 0.5
        expected = [y - height / 2, x - width / 2, y + height / 2, x + width / 2]
        np.testing.assert_allclose(box, expected, atol=1e-6)


def by_loops(boxes: Any, scores: Any, rule: Suppression) -> list[tuple[int, int]]:
    """Each class by itself, then the best of all; boxes outside of the input are no results."""
    least = -math.inf if rule.score_threshold is None else rule.score_threshold
    found = []
    items = [(row, label) for row in range(len(boxes)) for label in range(scores.shape[1])]
    groups = [[item for item in items if item[1] == label] for label in range(scores.shape[1])]
    if rule.within == "image":
        groups = [[item for item in items if scores[item] == max(scores[item[0]])]]
    for group in groups:
        kept: list[tuple[int, int]] = []
        for row, label in sorted(group, key=lambda item: (-scores[item], item)):
            if scores[row, label] < least or len(kept) == rule.max_detections_per_class:
                break
            overlaps = [matching.iou(boxes[row], boxes[other]) for other, _ in kept]
            if all(overlap <= rule.iou_threshold for overlap in overlaps):
                kept.append((row, label))
        found += [item for item in kept if visible(boxes[item[0]])]
    return sorted(found, key=lambda item: (-scores[item], item))[: rule.max_detections]


def visible(box: Any) -> bool:
    top, left, bottom, right = (min(max(side, 0.0), 1.0) for side in box)
    return top < bottom and left < right


@pytest.mark.parametrize(
    "rule",
    [
        Suppression(None, 0.5, 100, 100),
        Suppression(0.3, 0.6, 3, 100),
        Suppression(0.0, 0.3, 100, 7),
        Suppression(0.99, 0.3, 100, 100),
        Suppression(2.0, 0.3, 100, 100),
        Suppression(0.1, 0.3, 100, 100, "image"),
        Suppression(None, 0.3, 20, 20, "image"),
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [4096, 5])
def test_it_keeps_what_loops_keep(
    rule: Suppression, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_detections, "_FIRST", first)  # more than one turn of sorting
    random = np.random.default_rng(7)
    corners = random.uniform(-0.4, 1.2, (60, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0, 0.4, (60, 2))], axis=1)
    scores = random.uniform(0, 1, (60, 4)).astype(np.float32)
    found = raw_detections.select(boxes.astype(np.float32), scores, rule)
    assert found == by_loops(boxes.astype(np.float32), scores, rule)


@pytest.mark.parametrize("first", [4096, 2])
def test_equal_scores_are_taken_in_order(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_detections, "_FIRST", first)
    boxes = np.array([[0.1 * n, 0, 0.1 * n + 0.05, 1] for n in range(6)], np.float32)
    scores = np.full((6, 2), 0.5, np.float32)
    found = raw_detections.select(boxes, scores, Suppression(0.5, 0.5, 100, 100))
    assert found == [(row, label) for row in range(6) for label in range(2)]


def test_a_box_without_an_extent_overlaps_nothing() -> None:
    boxes = np.array([[0.2, 0.2, 0.2, 0.4], [0.2, 0.2, 0.4, 0.4]], np.float32)
    scores = np.array([[0.9], [0.8]], np.float32)
    assert raw_detections.select(boxes, scores, Suppression(None, 0.5, 9, 9)) == [(1, 0)]


def test_many_boxes_need_no_minutes() -> None:
    """A RetinaNet's 51,150 anchors and COCO's 90 classes, none of them below the threshold."""
    random = np.random.default_rng(3)
    corners = random.uniform(0, 0.9, (51_150, 2))
    boxes = np.concatenate([corners, corners + 0.1], axis=1).astype(np.float32)
    scores = random.uniform(0, 1, (51_150, 90)).astype(np.float32)
    assert len(raw_detections.select(boxes, scores, Suppression(1e-8, 0.6, 100, 100))) == 100
