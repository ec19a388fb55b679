"""Match the detections of two lists: the same class, about the same box.

Standard library only. A detection is a mapping with ``box`` ([ymin, xmin, ymax, xmax], any one
unit), ``score`` (0 to 1) and ``class_id``, as :mod:`stages.detect.detector` and
:mod:`stages.steps.reference` write them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

SAME_OBJECT = 0.5
"""Least intersection over union of two boxes around the same object (the PASCAL VOC measure)."""

_COUNTERPART = 0.5  # times the threshold: the least score of a counterpart
_DIGITS = 6  # of the figures in facts


@dataclass(frozen=True)
class Pair:
    """Detection ``left`` of one list and ``right`` of the other (positions), and their IoU."""

    left: int
    right: int
    iou: float


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Compute intersection over union of two boxes; 0 where one of them has no area.

    >>> iou([0, 0, 1, 1], [0, 0, 1, 0.5])
    0.5
    """
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    upright = all(box[2] > box[0] and box[3] > box[1] for box in (one, other))
    if height <= 0 or width <= 0 or not upright:
        return 0.0
    return height * width / (sum(areas) - height * width)


def match(
    left: Sequence[Mapping[str, Any]],
    right: Sequence[Mapping[str, Any]],
    least: float = SAME_OBJECT,
) -> list[Pair]:
    """Pair the detections of two lists, each in one pair at most.

    Boxes that overlap most are paired first, among equal ones those with the nearest scores: both
    lists come from one model's predictions, so the best fit is the same prediction. (Average
    precision would pair by score instead.)

    Args:
        left: detections of one source.
        right: of the other.
        least: least overlap of a pair.

    Returns:
        The pairs, by position in ``left``.
    """
    found = []
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            if one["class_id"] == other["class_id"]:
                overlap = iou(one["box"], other["box"])
                if overlap >= least:
                    found.append((-overlap, abs(one["score"] - other["score"]), i, j))
    pairs, used_left, used_right = [], set(), set()
    for negative, _, i, j in sorted(found):
        if i not in used_left and j not in used_right:
            used_left.add(i)
            used_right.add(j)
            pairs.append(Pair(i, j, -negative))
    return sorted(pairs, key=lambda pair: pair.left)


def agreement(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> float:
    """Measure how well two lists agree: from 0 (nothing in common) to 1 (equal).

    Each detection counts by its score, so that faint ones hardly matter: a pair contributes its IoU
    times the lower of its two scores, and the sum is divided by the sum of scores. With the lower
    score for both, a detection with half the score counts half: that reveals small differences of
    the input's scale, where boxes alone would not.

    >>> same = [{"box": [0, 0, 1, 1], "score": 0.8, "class_id": 1}]
    >>> agreement(same, same), agreement(same, [])
    (1.0, 0.0)
    """
    total = sum(item["score"] for items in (left, right) for item in items)
    if total == 0:
        return 1.0 if not left and not right else 0.0
    shared = sum(
        pair.iou * min(left[pair.left]["score"], right[pair.right]["score"])
        for pair in match(left, right)
    )
    return 2 * shared / total


def compare(
    prebuilt: list[dict[str, Any]], converted: list[dict[str, Any]], threshold: float
) -> dict[str, Any]:
    """Compare the detections of two artefacts in one image.

    Args:
        prebuilt: all detections of the first, as :meth:`stages.detect.detector.Detector.detect`
            returns them.
        converted: of the second.
        threshold: least score of a detection that counts.

    Returns:
        ``ious`` and ``score_differences`` of the pairs, and the detections ``missed`` and
        ``extra``.
    """
    prebuilt, converted = (
        [item for item in found if item["score"] >= _COUNTERPART * threshold]
        for found in (prebuilt, converted)
    )
    pairs = match(prebuilt, converted)
    counted = [
        pair
        for pair in pairs
        if max(prebuilt[pair.left]["score"], converted[pair.right]["score"]) >= threshold
    ]
    paired = ({pair.left for pair in pairs}, {pair.right for pair in pairs})
    missed, extra = (
        [
            item
            for position, item in enumerate(found)
            if position not in taken and item["score"] >= threshold
        ]
        for found, taken in zip((prebuilt, converted), paired)
    )
    return {
        "ious": [pair.iou for pair in counted],
        "score_differences": [
            abs(prebuilt[pair.left]["score"] - converted[pair.right]["score"]) for pair in counted
        ],
        "missed": missed,
        "extra": extra,
    }


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Compute the figures of one image, as :func:`compare` returns it: counts and extremes."""
    ious, differences = found["ious"], found["score_differences"]
    return {
        "pairs": len(ious),
        "mean_iou": _rounded(sum(ious) / len(ious)) if ious else None,
        "min_iou": _rounded(min(ious, default=None)),
        "max_score_difference": _rounded(max(differences, default=None)),
        "missed": len(found["missed"]),
        "extra": len(found["extra"]),
    }


def together(images: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge several images, each as :func:`compare` returns it, into one."""
    names = ("ious", "score_differences", "missed", "extra")
    return figures({name: [item for found in images for item in found[name]] for name in names})


def _rounded(value: Optional[float]) -> Optional[float]:
    return None if value is None else round(float(value), _DIGITS)
