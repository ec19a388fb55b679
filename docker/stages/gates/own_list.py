"""Compare an artefact with its model's own post-processing (gate ``parity``).

An SSD's own post-processing suppresses overlapping boxes within each class, and may keep several
classes of one box. TFLite's operator keeps one class a box, and suppresses across classes. Both
lists are therefore right although they differ; here each is reduced to what the other must hold.
Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from stages.detect import matching
from stages.gates import parity
from stages.gates.result import Gate

_MARGIN = 0.1
"""Two boxes whose overlap is nearer to the suppression's limit may be suppressed or not: rounding
decides."""

_CLIPPED = 0.5
"""Of the limit: a lower overlap counts where a box ends at the border. Suppression sees boxes
before they are clipped to the image, and can see a larger overlap."""

_BORDER = 1e-3  # nearness to the border, as a fraction of the image

_SAME_BOX = 0.95  # overlap from which on two boxes are the same prediction

_LOWERED = 0.01
"""The overlap with a better box from which on soft suppression changes a score noticeably."""

Suppression = Optional[Mapping[str, Any]]
"""Of a model's own post-processing: ``iou``, ``sigma``, ``across_classes`` and ``score``
(:func:`stages.steps.reference.compared`); None where it suppresses nothing (CenterNet)."""


@dataclass(frozen=True)
class Lists:
    """What a source model finds, by image.

    Args:
        own: by its own post-processing; boxes are clipped to the image.
        suppression: what that post-processing leaves out.
        as_tflite: its predictions under the rule of TFLite's operator; None for other outputs.
        own_ends: where the full lists of ``own`` end.
        as_tflite_ends: where those of ``as_tflite`` do.
    """

    own: parity.Detections
    suppression: Suppression = None
    as_tflite: Optional[parity.Detections] = None
    own_ends: parity.Ends = field(default_factory=dict)
    as_tflite_ends: parity.Ends = field(default_factory=dict)


def examine(
    source: Lists,
    found: parity.Detections,
    limits: parity.Limits,
    score_threshold: float,
    ends: Optional[parity.Ends] = None,
    own_threshold: float = 0.0,
) -> Gate:
    """Compute the result of gate ``parity``.

    The artefact must hold what the model's own post-processing finds. Where there is the list
    ``as_tflite``, it must hold that, too: there every number must be the same.

    Args:
        source: what the model finds.
        found: the artefact's detections, in the same images.
        limits: the allowed differences.
        score_threshold: from the recipe; see :func:`stages.gates.parity.threshold`.
        ends: where the artefact's full lists end.
        own_threshold: see :func:`stages.gates.parity.examine`.
    """
    ends = ends or {}
    reduced = {
        name: comparable(
            items,
            found.get(name, ()),
            source.suppression,
            (source.own_ends.get(name, 0.0), ends.get(name, 0.0)),
            limits.score_difference,
        )
        for name, items in source.own.items()
    }
    own, other = ({name: pair[side] for name, pair in reduced.items()} for side in (0, 1))
    gate = parity.examine(own, other, limits, score_threshold, own_threshold=own_threshold)
    if source.as_tflite is None:
        return gate
    both = (source.as_tflite_ends, ends)
    second = parity.examine(source.as_tflite, found, limits, score_threshold, both, own_threshold)
    gate.figures["as_tflite"] = second.figures
    if second.problems and not gate.problems:
        gate.problems = second.problems
        gate.summary = f"by the operator's own rule, {second.summary}"
    return gate


def agreed(gate: Gate) -> float:
    """Return the least agreement in a result of :func:`examine`."""
    second = gate.figures.get("as_tflite", gate.figures)
    return float(min(figures["agreement"] for figures in (gate.figures, second)))


def comparable(
    own: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    suppression: Suppression,
    ends: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Reduce the lists of one image to the detections that both must hold.

    From ``own`` goes what the artefact rightly suppressed: one of its detections is as sure,
    overlaps it by more than the suppression allows, and is in ``own`` itself. From ``found`` goes
    what the own post-processing rightly suppressed, and what lies outside of the image. From both
    goes what may have been cut off at the end of the other's full list.

    Args:
        own: the model's detections.
        found: the artefact's.
        suppression: see :class:`Lists`.
        ends: where each list ends, if it was full (:func:`stages.gates.parity.end_of`).
        margin: how far above the end of a full list a counterpart may have been.

    Returns:
        Both lists, boxes clipped to the image. Of a soft suppression, scores
        that it lowered are replaced by the artefact's.
    """
    # (Model Maker's own boxes end where the input ends, behind the photograph.)
    every_own = _with_whole(own)
    left, right = (
        [item for item in one if _area(item["box"]) > 0] for one in (every_own, _with_whole(found))
    )
    every = matching.match(left, right)
    pairs = [
        pair
        for pair in every
        if not _neighbours(left, right, every, pair, suppression, (every_own, ends[0]))
    ]
    crossed = {pair.left for pair in every if pair not in pairs}
    held = [right[pair.right] for pair in pairs]
    if _sigma(suppression):
        # The box that suppressed it may have been lowered out of the model's list.
        held = right
    least = [end + margin if end > 0 else 0.0 for end in ends]
    kept_left, kept_right = {pair.left for pair in pairs}, {pair.right for pair in pairs}
    for place, item in enumerate(left):
        gone = place in crossed or _suppressed(item, held, suppression)
        if item["score"] >= least[1] and not gone:
            kept_left.add(place)
    for place, item in enumerate(right):
        gone = _outside(item["whole"]) or _rightly_absent(item, every_own, suppression, ends[0])
        if item["score"] >= least[0] and not gone:
            kept_right.add(place)
    if _sigma(suppression):
        for pair in pairs:
            _undo_lowering(left[pair.left], every_own, right[pair.right]["score"], suppression)
    for item in (*every_own, *right):
        del item["whole"]
    return [left[place] for place in sorted(kept_left)], [
        right[place] for place in sorted(kept_right)
    ]


def _with_whole(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Clip boxes to the image; ``whole`` is what they were."""
    return [
        {**item, "box": [min(max(side, 0.0), 1.0) for side in item["box"]], "whole": item["box"]}
        for item in items
    ]


def _sigma(suppression: Suppression) -> float:
    """Return how far soft suppression reaches; 0 where boxes are left out instead."""
    return 0.0 if suppression is None else float(suppression["sigma"])


def _rightly_absent(
    item: Mapping[str, Any],
    own: Sequence[Mapping[str, Any]],
    suppression: Suppression,
    end: float,
) -> bool:
    """Whether the model's own post-processing left out a detection of the artefact.

    Args:
        item: the detection.
        own: what the model found.
        suppression: see :class:`Lists`.
        end: where the model's list ends, if it is full.
    """
    if suppression is None:
        return False
    rivals = [
        one for one in own if suppression["across_classes"] or one["class_id"] == item["class_id"]
    ]
    if _suppressed(item, rivals, suppression):
        return True
    # All boxes of a full list were better in the end, and each lowered it a little.
    return bool(end) and item["score"] * _lowering(item, rivals, suppression, _MARGIN) <= end


def _lowering(
    item: Mapping[str, Any],
    better: Sequence[Mapping[str, Any]],
    suppression: Suppression,
    margin: float = 0.0,
) -> float:
    """Compute the factor by which soft suppression lowers a score: exp(-IoU² / 2 sigma) a box.

    Args:
        item: a detection.
        better: those that lower it.
        suppression: see :class:`Lists`.
        margin: by how much overlaps may have been larger than the clipped boxes show.
    """
    sigma = _sigma(suppression)
    if not sigma:
        return 1.0
    overlaps = [matching.iou(item["whole"], one["whole"]) for one in better]
    squares = [min(one + margin, 1.0) ** 2 for one in overlaps if one > _LOWERED]
    return math.exp(-sum(squares) / (2 * sigma))


def _suppressed(
    item: Mapping[str, Any],
    others: Sequence[Mapping[str, Any]],
    suppression: Suppression,
) -> bool:
    """Whether one of ``others`` that is as sure may have suppressed ``item``."""
    if suppression is None:
        return False
    for one in others:
        limit = suppression["iou"] - _MARGIN
        if _at_border(item["box"]) or _at_border(one["box"]):
            limit = _CLIPPED * suppression["iou"]
        surer = one is not item and one["score"] >= item["score"]
        if surer and matching.iou(item["box"], one["box"]) > limit:
            return True
    return False


def _neighbours(
    own: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    pairs: Sequence[matching.Pair],
    pair: matching.Pair,
    suppression: Suppression,
    full: tuple[Sequence[Mapping[str, Any]], float],
) -> bool:
    """Whether a pair is of two boxes, each of which the other side suppressed.

    The artefact suppressed the model's box by one of another class, and then kept a neighbour,
    which the model's own post-processing suppressed by that box. ``full`` is the model's whole list
    and where it ends, if it is full.
    """
    if suppression is None or pair.iou > _SAME_BOX:
        return False
    item = found[pair.right]
    if _sigma(suppression):
        # Also by the neighbour itself, which the model's soft suppression lowered out of its list.
        return _suppressed(own[pair.left], found, suppression) and _rightly_absent(
            item, full[0], suppression, full[1]
        )
    others = [found[other.right] for other in pairs if other != pair]
    return _suppressed(own[pair.left], others, suppression) and _suppressed(
        item, [own[pair.left]], suppression
    )


def _undo_lowering(
    item: dict[str, Any],
    own: Sequence[Mapping[str, Any]],
    score: float,
    suppression: Suppression,
) -> None:
    """Give a detection the score that it had before better ones lowered it."""
    better = [one for one in own if one is not item and one["score"] >= item["score"]]
    if score > item["score"] and _lowering(item, better, suppression) < 1:
        item["score"] = score


def _outside(box: Sequence[float]) -> bool:
    """Whether the centre lies outside of the image, where CenterNet looks for no object."""
    top, left, bottom, right = box
    return not (0 <= (top + bottom) / 2 <= 1 and 0 <= (left + right) / 2 <= 1)


def _at_border(box: Sequence[float]) -> bool:
    return min(box) <= _BORDER or max(box) >= 1 - _BORDER


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
