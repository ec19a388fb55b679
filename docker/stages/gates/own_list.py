"""Compare an artefact with its model's own post-processing (gate ``parity``).

An SSD's own post-processing suppresses overlapping boxes within each class, and may keep several
classes of one box. TFLite's operator keeps one class a box, and suppresses across classes. Both
lists are therefore right although they differ; here each is reduced to what the other must hold.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Lists:
    """What a source model finds, by image.

    Args:
        own: by its own post-processing; boxes are clipped to the image.
        suppression: of that: ``iou`` and ``soft`` (:func:`stages.steps.reference.write`); None
            where it suppresses nothing (CenterNet).
        as_tflite: its predictions under the rule of TFLite's operator; None for other outputs.
    """

    own: parity.Detections
    suppression: Optional[Mapping[str, Any]] = None
    as_tflite: Optional[parity.Detections] = None


def examine(
    source: Lists,
    found: parity.Detections,
    limits: parity.Limits,
    score_threshold: float,
    capacity: Optional[int] = None,
    own_threshold: float = 0.0,
    ends: Optional[Mapping[str, float]] = None,
) -> Gate:
    """Compute the result of gate ``parity``.

    The artefact must hold what the model's own post-processing finds. Where there is the list
    ``as_tflite``, it must hold that, too: there every number must be the same.

    Args:
        source: what the model finds.
        found: the artefact's detections, in the same images.
        limits: the allowed differences.
        score_threshold: from the recipe; see :func:`stages.gates.parity.threshold`.
        capacity: how many detections both can output for an image; None: unlimited.
        own_threshold: see :func:`stages.gates.parity.examine`.
        ends: see :func:`stages.gates.parity.examine`.
    """
    margin = limits.score_difference
    reduced = {
        name: comparable(
            items,
            found.get(name, ()),
            source.suppression,
            capacity,
            margin,
            0.0 if ends is None else ends.get(name, 0.0),
        )
        for name, items in source.own.items()
    }
    own, other = ({name: pair[side] for name, pair in reduced.items()} for side in (0, 1))
    gate = parity.examine(own, other, limits, score_threshold, own_threshold=own_threshold)
    if source.as_tflite is None:
        return gate
    second = parity.examine(
        source.as_tflite, found, limits, score_threshold, capacity, own_threshold, ends
    )
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
    suppression: Optional[Mapping[str, Any]],
    capacity: Optional[int] = None,
    margin: float = 0.0,
    found_end: float = 0.0,
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
        capacity: how many detections both can output; None: unlimited.
        margin: how far above the end of a full list a counterpart may have been.
        found_end: :func:`end` of the artefact's list before boxes were left out of it that lie in
            the filling of a letterboxed photograph.

    Returns:
        Both lists, boxes clipped to the image. Of a soft suppression, scores
        that it lowered are replaced by the artefact's.
    """
    # (Model Maker's own boxes end where the input ends, behind the photograph.)
    left = [{**item, "box": _clipped(item["box"])} for item in own]
    left = [item for item in left if _area(item["box"]) > 0]
    right = [{**item, "box": _clipped(item["box"]), "outside": _outside(item)} for item in found]
    right = [item for item in right if _area(item["box"]) > 0]
    every = matching.match(left, right)
    pairs = [pair for pair in every if not _neighbours(left, right, every, pair, suppression)]
    crossed = {pair.left for pair in every if pair not in pairs}
    held = [right[pair.right] for pair in pairs]
    ends = (end(own, capacity), max(end(found, capacity), found_end))
    least = [lowest + margin if lowest > 0 else 0.0 for lowest in ends]
    kept_left, kept_right = {pair.left for pair in pairs}, {pair.right for pair in pairs}
    for place, item in enumerate(left):
        gone = place in crossed or _suppressed(item, held, suppression)
        if item["score"] >= least[1] and not gone:
            kept_left.add(place)
    for place, item in enumerate(right):
        same = [one for one in left if one["class_id"] == item["class_id"]]
        gone = item["outside"] or _suppressed(item, same, suppression)
        if item["score"] >= least[0] and not gone:
            kept_right.add(place)
    if suppression is not None and suppression["soft"]:
        for pair in pairs:
            _undo_lowering(left, pair.left, right[pair.right]["score"])
    for item in right:
        del item["outside"]
    return [left[place] for place in sorted(kept_left)], [
        right[place] for place in sorted(kept_right)
    ]


def _clipped(box: Sequence[float]) -> list[float]:
    """Clip a box, in fractions of an image, to that image."""
    return [min(max(side, 0.0), 1.0) for side in box]


def _suppressed(
    item: Mapping[str, Any],
    others: Sequence[Mapping[str, Any]],
    suppression: Optional[Mapping[str, Any]],
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
    suppression: Optional[Mapping[str, Any]],
) -> bool:
    """Whether a pair is of two boxes, each of which the other side suppressed.

    The artefact suppressed the model's box by one of another class, and then kept a neighbour,
    which the model's own post-processing suppressed by that box.
    """
    if suppression is None or pair.iou > _SAME_BOX:
        return False
    others = [found[other.right] for other in pairs if other != pair]
    if not _suppressed(own[pair.left], others, suppression):
        return False
    # Soft suppression may have lowered the neighbour below the list's end.
    return suppression["soft"] or _suppressed(found[pair.right], [own[pair.left]], suppression)


def _undo_lowering(own: list[dict[str, Any]], place: int, score: float) -> None:
    """Give a detection the score that it had before a better one lowered it."""
    item = own[place]
    better = [
        one for other, one in enumerate(own) if other != place and one["score"] >= item["score"]
    ]
    lowered = any(matching.iou(item["box"], one["box"]) > _LOWERED for one in better)
    if lowered and score > item["score"]:
        item["score"] = score


def end(full: Sequence[Mapping[str, Any]], capacity: Optional[int]) -> float:
    """Return the lowest score of a full list: what it left out has a lower one. Else return 0."""
    if capacity is None or len(full) < capacity:
        return 0.0
    return float(min(item["score"] for item in full))


def _outside(item: Mapping[str, Any]) -> bool:
    """Whether the centre lies outside of the image, where CenterNet looks for no object."""
    top, left, bottom, right = item["box"]
    return not (0 <= (top + bottom) / 2 <= 1 and 0 <= (left + right) / 2 <= 1)


def _at_border(box: Sequence[float]) -> bool:
    return min(box) <= _BORDER or max(box) >= 1 - _BORDER


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
