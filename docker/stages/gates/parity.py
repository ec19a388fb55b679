"""Check that the artefact detects what its source model detects (gate ``parity``).

Both run on the same images; the artefact by its own metadata, the model with its own preprocessing
and post-processing (:mod:`stages.steps.reference`). Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from stages.detect import matching
from stages.gates.result import Gate, beside

NAME = "parity"

Detections = Mapping[str, Sequence[Mapping[str, Any]]]
"""By image: detections as :meth:`stages.detect.detector.Detector.detect` returns them."""

Ends = Mapping[str, float]
"""By image, where a list was full: the least score in it (:func:`end_of`), before anything was left
out of it, such as what lies in a letterbox's filling."""

_FAINT = 0.5
"""If the model is sure of nothing, detections are compared down to this fraction of its best
score: a user's model need not detect anything in other photographs."""

_ONE_IN = 20
"""One pair in this many, the worst, is not judged."""

_HEARD = 0.5
"""``agreement`` counts detections down to this fraction of the threshold."""


@dataclass(frozen=True)
class Limits:
    """The allowed differences.

    Args:
        score_difference: of a detection that both find, at most; 0 to 1.
        iou: of the boxes of such a pair, at least. Both hold for all pairs but the worst one in
            twenty: in quantised arithmetic suppression keeps a neighbour of the source's box now
            and then.
        unmatched: part of all detections that only one of the two finds, at most.
        agreement: over all images (:func:`agreement`), at least.
    """

    score_difference: float
    iou: float
    unmatched: float
    agreement: float

    def changed(self, overrides: Mapping[str, Optional[float]]) -> Limits:
        """Return a copy with some limits replaced; None leaves one unchanged."""
        given = {name: value for name, value in overrides.items() if value is not None}
        return Limits(**{**self.__dict__, **given})


LIMITS = {
    "float32": Limits(score_difference=0.001, iou=0.99, unmatched=0.02, agreement=0.99),
    "float16": Limits(score_difference=0.02, iou=0.95, unmatched=0.05, agreement=0.97),
    "dynamic": Limits(score_difference=0.25, iou=0.6, unmatched=0.25, agreement=0.8),
    "int8": Limits(score_difference=0.4, iou=0.5, unmatched=0.35, agreement=0.6),
    "int16x8": Limits(score_difference=0.2, iou=0.6, unmatched=0.25, agreement=0.8),
    # A publisher's conversion, of any kind.
    "prebuilt": Limits(score_difference=0.4, iou=0.5, unmatched=0.35, agreement=0.6),
}
"""By variant. Measured on three trained models and eight families of random ones, in several
kernels and processors; each bound leaves at least a quarter more than the worst figure: see the
table in ``docs/checks.md``. The recipe's ``[check.limits]`` replaces them."""


def threshold(source: Detections, wanted: float) -> float:
    """Return the least score that counts: ``wanted``, or less where no detection reaches it."""
    best = max((item["score"] for items in source.values() for item in items), default=0.0)
    return min(wanted, _FAINT * best)


def agreement(source: Detections, found: Detections, least: float) -> float:
    """Compute :func:`stages.detect.matching.agreement` over all images of ``source``, 0 to 1.

    Each image is weighted by the scores of all detections in it, of either side.
    """
    total, shared = 0.0, 0.0
    for name, items in source.items():
        lists = [
            [item for item in one if item["score"] >= _HEARD * least]
            for one in (items, found.get(name, ()))
        ]
        weight = sum(item["score"] for one in lists for item in one)
        total += weight
        shared += weight * matching.agreement(*lists)
    return shared / total if total else 0.0


def examine(
    source: Detections,
    found: Detections,
    limits: Limits,
    score_threshold: float,
    ends: tuple[Ends, Ends] = ({}, {}),
    own_threshold: float = 0.0,
) -> Gate:
    """Compute the gate's result.

    Args:
        source: the model's detections, by image.
        found: the artefact's detections, in the same images.
        limits: the allowed differences.
        score_threshold: from the recipe; see :func:`threshold`.
        ends: where the full lists of the model and of the artefact end.
        own_threshold: of the model's own post-processing: neither outputs a lower score.
    """
    gate = Gate(NAME)
    least = threshold(source, score_threshold)
    compared, kept, other, cut_off = [], {}, {}, 0
    for name, items in source.items():
        both = (items, found.get(name, ()))
        cut = (ends[0].get(name, 0.0), ends[1].get(name, 0.0))
        pair = without_cut(*both, cut, limits.score_difference, least, own_threshold)
        kept[name], other[name] = pair
        cut_off += _counting(both, least) - _counting(pair, least)
        compared.append(matching.compare(*pair, least))
    figures = matching.together(compared)
    agreed = agreement(kept, other, least)
    judged = {
        "iou": but_the_worst([iou for one in compared for iou in one["ious"]]),
        "score_difference": -but_the_worst(
            [-size for one in compared for size in one["score_differences"]]
        ),
    }
    gate.figures.update(figures, agreement=round(agreed, 6), score_threshold=round(least, 6))
    count = figures["pairs"] + figures["missed"] + figures["extra"]
    near = cut_off if chance_below(own_threshold, 0.0, least) else 0
    if not count or near > count:
        gate.problem("nothing-found", *_too_little(len(source), count, near, own_threshold))
        return gate
    alone = figures["missed"] + figures["extra"]
    unmatched = alone / count
    gate.figures["unmatched"] = round(unmatched, 6)
    # One among twenty or more does not decide: rounding can turn a suppression around.
    excused = alone == 1 and count >= _ONE_IN
    _hold(gate, figures, judged, 0.0 if excused else unmatched, agreed, limits)
    gate.summary = _summary(figures, len(source))
    if near:
        gate.summary += f", {near} near the model's own threshold of {own_threshold:g} left out"
    if least < score_threshold:
        gate.summary += f"; compared down to a score of {least:.2g}: none reaches more"
    return gate


def _counting(lists: Iterable[Sequence[Mapping[str, Any]]], least: float) -> int:
    return sum(item["score"] >= least for items in lists for item in items)


def _too_little(images: int, count: int, near: int, own_threshold: float) -> tuple[str, str, str]:
    """Explain why detections are too few to compare: what was expected, what was seen, the cause.

    Args:
        images: how many there are.
        count: detections that could be compared.
        near: those left out: found by one side only, near the model's own threshold.
        own_threshold: see :func:`examine`.
    """
    end = f"the model's own threshold of {own_threshold:g}"
    seen, cause = f"{count or 'none'}", "The model finds nothing at all in these images"
    if near:
        seen += f", and {near} near {end} that one of the two finds alone,"
        cause = f"Most are so near {end} that a small difference decides whether they are found"
    elif own_threshold:
        cause = f"Nothing in these images reaches {end}"
    return (
        "detections to compare",
        f"{seen} in {images} image{'' if images == 1 else 's'}",
        f"{cause}: give images of its kind with check.images in the recipe (--images).",
    )


def end_of(items: Sequence[Mapping[str, Any]], capacity: Optional[int]) -> float:
    """Return the least score in a list that is full; 0 where it is not.

    Args:
        items: all that was output, before anything was left out.
        capacity: how many detections can be output for an image; None: unlimited.
    """
    if capacity is None or len(items) < capacity:
        return 0.0
    return float(min((item["score"] for item in items), default=0.0))


def without_cut(
    items: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    ends: tuple[float, float],
    margin: float,
    least: float,
    own_threshold: float = 0.0,
) -> tuple[list[Any], list[Any]]:
    """Return both lists without detections whose counterparts may have been cut off.

    ``ends`` are those of both (:func:`end_of`). In a crowded scene the scores around that end are
    close together, and the smallest difference decides which ones are in it: a detection less than
    ``margin`` above the end of the other side's full list may miss its counterpart there. So may
    one less than ``margin`` above ``own_threshold``, where the model's own post-processing ends
    every list.
    """
    lists = ([*items], [*found])
    pairs = matching.match(*lists)
    paired = ({pair.left for pair in pairs}, {pair.right for pair in pairs})
    result = []
    for own, taken, end in zip(lists, paired, reversed(ends)):
        cut = chance_below(max(end, own_threshold), margin, least)
        result.append(
            [item for position, item in enumerate(own) if position in taken or item["score"] >= cut]
        )
    return result[0], result[1]


def chance_below(end: float, margin: float, least: float) -> float:
    """Return the score below which chance decides whether a list holds a detection.

    Args:
        end: the list holds no lower scores.
        margin: the difference of scores that is allowed.
        least: see :func:`threshold`.

    Returns:
        0 where the list ends in faint detections: it lost nothing that counts.
    """
    return end + margin if end > 0 and end >= _HEARD * least else 0.0


def clearly_found(
    source: Detections, found: Detections, floor: float
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return both sides without what the source gives a score below ``floor``.

    Where chance decides what is found (:func:`chance_below`), :func:`without_cut` keeps what both
    found. Several results can only be ranked by the same detections of the source.
    """
    kept, others = {}, {}
    for name, items in source.items():
        other = found.get(name, ())
        partner = {pair.right: items[pair.left] for pair in matching.match(items, other)}
        kept[name] = [item for item in items if item["score"] >= floor]
        others[name] = [
            item
            for position, item in enumerate(other)
            if partner.get(position, item)["score"] >= floor
        ]
    return kept, others


def but_the_worst(values: Sequence[float]) -> float:
    """Return the least value after leaving out the worst one in twenty; 1 where there is none."""
    ordered = sorted(values)
    return ordered[len(ordered) // _ONE_IN] if ordered else 1.0


def _hold(
    gate: Gate,
    figures: Mapping[str, Any],
    judged: Mapping[str, float],
    unmatched: float,
    agreed: float,
    limits: Limits,
) -> None:
    over, seen = [], []
    difference, iou = judged["score_difference"], judged["iou"]
    if difference > limits.score_difference:
        over.append(f"scores within {limits.score_difference:g}")
        seen.append(f"a score off by {beside(difference, limits.score_difference)}")
    if iou < limits.iou:
        over.append(f"boxes that overlap by {limits.iou:g} (IoU)")
        seen.append(f"one that overlaps by {beside(iou, limits.iou)}")
    if unmatched > limits.unmatched:
        most = limits.unmatched * 100
        over.append(f"{most:g} % of detections found by one of the two only, at most")
        seen.append(
            f"{beside(unmatched * 100, most)} %: {figures['missed']} missed, "
            f"{figures['extra']} extra, {figures['pairs']} in common"
        )
    if agreed < limits.agreement:
        over.append(f"an agreement of {limits.agreement:g}")
        seen.append(beside(agreed, limits.agreement))
    if over:
        # stages.gates.diagnosis fills in the cause.
        gate.problem("differs", "; ".join(over), "; ".join(seen), "")


def _summary(figures: Mapping[str, Any], images: int) -> str:
    parts = [f"{figures['pairs']} detections in common in {images} images"]
    if figures["pairs"]:
        parts.append(
            f"scores within {figures['max_score_difference']:.2g}, IoU {figures['min_iou']:.3f} "
            "or more"
        )
    if figures["missed"] or figures["extra"]:
        parts.append(f"{figures['missed']} missed, {figures['extra']} extra")
    return ", ".join(parts)
