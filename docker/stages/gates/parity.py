"""The gate ``parity``: does the artefact find what the model finds that it was made from?

Both are asked about the same images; the artefact is driven by its own metadata, the model by its
own preprocessing and post-processing (:mod:`stages.steps.reference`). Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from stages.detect import matching
from stages.gates.gate import Gate, beside

NAME = "parity"

Detections = Mapping[str, Sequence[Mapping[str, Any]]]
"""By image: detections as :meth:`stages.detect.detector.Detector.detect` returns them."""

_FAINT = 0.5
"""Where the model is sure of nothing, detections are compared down to this part of its best score:
a model of one's own need not find anything in somebody else's photographs."""

_ONE_IN = 20
"""Of so many pairs the worst one is not judged."""

_HEARD = 0.5
"""``agreement`` counts detections down to this part of the threshold."""


@dataclass(frozen=True)
class Limits:
    """What is allowed.

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
        """These with some of them replaced; None leaves one as it is."""
        given = {name: value for name, value in overrides.items() if value is not None}
        return Limits(**{**self.__dict__, **given})


LIMITS = {
    "float32": Limits(score_difference=0.001, iou=0.99, unmatched=0.02, agreement=0.99),
    "float16": Limits(score_difference=0.02, iou=0.95, unmatched=0.05, agreement=0.97),
    "dynamic": Limits(score_difference=0.25, iou=0.6, unmatched=0.25, agreement=0.8),
    "int8": Limits(score_difference=0.4, iou=0.5, unmatched=0.35, agreement=0.6),
    # Somebody else's conversion, of whatever kind.
    "prebuilt": Limits(score_difference=0.4, iou=0.5, unmatched=0.35, agreement=0.6),
}
"""By variant. Measured on three trained models and eight families of random ones, in several
kernels and processors; each bound leaves at least a quarter more than the worst figure: see the
table in ``docs/checks.md``. The recipe's ``[check.limits]`` replaces them."""


def threshold(source: Detections, wanted: float) -> float:
    """The least score of a detection that counts: ``wanted``, or less where nothing reaches it."""
    best = max((item["score"] for items in source.values() for item in items), default=0.0)
    return min(wanted, _FAINT * best)


def agreement(source: Detections, found: Detections, least: float) -> float:
    """:func:`stages.detect.matching.agreement` over all images of ``source``, from 0 to 1.

    Each image counts by the scores of what is found in it by either.
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
    capacity: Optional[int] = None,
) -> Gate:
    """The gate's result.

    Args:
        source: what the model finds, by image.
        found: what the artefact finds, in the same images.
        limits: what is allowed.
        score_threshold: as the recipe wants it; see :func:`threshold`.
        capacity: how many detections both have room for in an image; None: as many as there are.
    """
    gate = Gate(NAME)
    least = threshold(source, score_threshold)
    compared, kept, other = [], {}, {}
    for name, items in source.items():
        pair = without_cut(items, found.get(name, ()), capacity, limits.score_difference, least)
        kept[name], other[name] = pair
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
    if not count:
        gate.problem(
            "nothing-found",
            "detections to compare",
            f"none in {len(source)} images",
            "The model finds nothing at all in the check's images: give it images of its own kind.",
        )
        return gate
    unmatched = (figures["missed"] + figures["extra"]) / count
    gate.figures["unmatched"] = round(unmatched, 6)
    _hold(gate, figures, judged, unmatched, agreed, limits)
    gate.summary = _summary(figures, len(source))
    if least < score_threshold:
        gate.summary += f"; compared down to a score of {least:.2g}: none reaches more"
    return gate


def without_cut(
    items: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    capacity: Optional[int],
    margin: float,
    least: float,
) -> tuple[list[Any], list[Any]]:
    """Both lists without detections whose counterparts were cut off.

    A list that is full ends where room ends. In a crowded scene the scores around that end lie
    close together, and the smallest difference decides which ones are still in it: what lies less
    than ``margin`` above the end of the other side's full list may miss its counterpart there.
    """
    lists = ([*items], [*found])
    pairs = matching.match(*lists)
    paired = ({pair.left for pair in pairs}, {pair.right for pair in pairs})
    result = []
    for own, taken, other in zip(lists, paired, reversed(lists)):
        full = capacity is not None and len(other) >= capacity
        end = min((item["score"] for item in other), default=0.0) + margin if full else 0.0
        # A list that ends in faint detections was not cut short of anything that counts.
        cut = end if end - margin >= _HEARD * least else 0.0
        result.append(
            [item for position, item in enumerate(own) if position in taken or item["score"] >= cut]
        )
    return result[0], result[1]


def but_the_worst(values: Sequence[float]) -> float:
    """The least of all values but the least one in twenty; 1 where there is none."""
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
        # The cause is filled in by whoever can try others (stages.gates.diagnosis).
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
