"""Diagnose why an artefact's detections differ from its model's, by trying the usual mistakes.

A mistake in metadata or labels is silent: the file runs and answers, only wrongly. Each hypothesis
here undoes one mistake. If the detections then clearly match the model's, that mistake is the
cause.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stages.detect import matching
from stages.detect.detector import Detector
from stages.files import feeding
from stages.files.normalizations import KNOWN, Normalization, named, three
from stages.gates import feeding_cost, parity
from stages.protocol.failures import StageError
from stages.tflite import decoding, tflite_meta

_CLEARLY = 0.5
"""A hypothesis is accepted if it leaves at most this fraction of the disagreement."""

_AS_MUCH = 0.1
"""Agreements that differ by less explain a difference equally well."""

SENSIBLE = 0.5
"""The least agreement (0 to 1) under an accepted hypothesis."""


@dataclass(frozen=True)
class Finding:
    """A hypothesis that explains the difference.

    Args:
        code: a stable name, such as ``normalization``.
        cause: what happened, as a sentence.
        agreement: with the source model after undoing the mistake, from 0 to 1.
    """

    code: str
    cause: str
    agreement: float


def diagnose(
    model: Detector,
    images: Mapping[str, Any],
    source: parity.Detections,
    least: float,
) -> Finding:
    """Find the likely cause of a difference.

    Args:
        model: the artefact.
        images: uint8 [h, w, 3] by name; few are enough.
        source: the source model's detections in them.
        least: detections with a lower score hardly count (:func:`stages.gates.parity.agreement`).

    Returns:
        The best hypothesis, or "other weights" where none explains the difference.
    """
    source = {name: source[name] for name in images}
    raw = {name: model.run(model.input_values(image)) for name, image in images.items()}
    as_declared = _each(model, images, raw)
    base = parity.agreement(source, as_declared, least)
    findings = [
        Finding(code, cause, parity.agreement(source, found, least))
        for code, cause, found in _hypotheses(model, images, raw, source, as_declared)
    ]
    best = max(findings, key=lambda item: item.agreement)
    if model.decoding is not None:
        decoded = _wrongly_decoded(source, as_declared, least)
        # It undoes no mistake, it leaves boxes out of account: so it does not replace a finding
        # that explains as much.
        if decoded.agreement > best.agreement + _AS_MUCH:
            best = decoded
    if best.agreement >= SENSIBLE and 1 - best.agreement <= _CLEARLY * (1 - base):
        return best
    return Finding(
        "weights",
        "None of the usual mistakes explains it (another normalisation or feeding, exchanged "
        "outputs, turned boxes, shifted classes): the weights are not the model's. A checkpoint "
        "restored in part, another checkpoint, or a conversion that lost too much precision does "
        "this.",
        best.agreement,
    )


def _wrongly_decoded(source: parity.Detections, found: parity.Detections, least: float) -> Finding:
    """Compare the best score of each class, in which boxes have no part."""
    sides = [
        {name: list(_best_of_classes(items)) for name, items in side.items()}
        for side in (source, found)
    ]
    return Finding(
        "decoding",
        "The scores are the model's, and the boxes are elsewhere: the anchors that are packed in"
        f" the file, or the numbers in {decoding.FILE}, are not the model's.",
        parity.agreement(sides[0], sides[1], least),
    )


def _best_of_classes(items: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    best: dict[int, float] = {}
    for item in items:
        best[item["class_id"]] = max(item["score"], best.get(item["class_id"], 0.0))
    for class_id, score in best.items():
        yield {"box": [0.0, 0.0, 1.0, 1.0], "score": score, "class_id": class_id}


def _hypotheses(
    model: Detector,
    images: Mapping[str, Any],
    raw: Mapping[str, dict[str, Any]],
    source: parity.Detections,
    as_declared: parity.Detections,
) -> Iterator[tuple[str, str, parity.Detections]]:
    for norm in other_normalizations(model):
        yield (
            "normalization",
            f"Fed with {named(norm)} the file finds what the model finds; its metadata says "
            f"{named(declared(model))}.",
            detections(model, images, norm),
        )
    for how in _other_feedings(model.feeding):
        yield (
            feeding_cost.NAME,
            f"Fed with pictures that are {_shown(how)} the file finds what the model finds; it says"
            f" that they are to be {_shown(model.feeding)}.",
            {name: _detected(model, image, how=how) for name, image in images.items()},
        )
    yield (
        "roles-swapped",
        "Read the other way round, the outputs of classes and scores give what the model finds: "
        "the metadata has them exchanged.",
        _each(model, images, {name: _exchanged(outputs) for name, outputs in raw.items()}),
    )
    yield (
        "boxes-swapped",
        "With x and y exchanged the boxes are the model's: the metadata declares the sides of a "
        "box in another order than the graph writes them.",
        _changed(as_declared, lambda item: {"box": _turned(item["box"])}),
    )
    for by in (-1, 1):
        yield (
            "classes-shifted",
            f"Every class is off by {-by:+d}: a background class is counted on one side only.",
            _changed(as_declared, lambda item, by=by: {"class_id": item["class_id"] + by}),
        )
    if model.decoding is not None:
        yield from _decodings(model, model.decoding, images)
    renamed = _renaming(source, as_declared)
    yield (
        "classes-shuffled",
        "The boxes are the model's, their classes are another numbering of the same ones.",
        _changed(
            as_declared,
            lambda item: {"class_id": renamed.get(item["class_id"], item["class_id"])},
        ),
    )


def _decodings(
    model: Detector, how: decoding.Decoding, images: Mapping[str, Any]
) -> Iterator[tuple[str, str, parity.Detections]]:
    """Decode raw boxes by exchanged scales: of centres and sizes, and of height and width."""
    y, x, height, width = how.scales
    for scales in ((height, width, y, x), (x, y, width, height)):
        if scales == how.scales:
            continue
        other = copy.copy(model)
        other.decoding = replace(how, scales=scales)
        said = ", ".join(f"{name} {value:g}" for name, value in zip(decoding.SCALES, scales))
        yield (
            "box-scales",
            f"Decoded with the scales {said} the file finds what the model finds: {decoding.FILE}"
            " has them exchanged.",
            {name: _detected(other, image) for name, image in images.items()},
        )


def _other_feedings(described: feeding.Feeding) -> list[feeding.Feeding]:
    """List the usual ways of either fit, in either sampling, except the described one."""
    return [
        replace(how, sampling=sampling)
        for how in feeding_cost.other_ways(described).values()
        for sampling in (feeding.HALF_PIXEL, feeding.CORNER)
        if (how.fit, sampling) != (described.fit, described.sampling)
    ]


def _shown(how: feeding.Feeding) -> str:
    return f"{feeding_cost.WORDS[how.fit]} ({how.sampling} sampling)"


def declared(model: Detector) -> Normalization:
    """Return the normalisation that the metadata declares; raw pixels where it declares none."""
    image = model.metadata.inputs[0]
    return three(image.mean or (0.0,), image.std or (1.0,))


def other_normalizations(model: Detector) -> list[Normalization]:
    """List the known ones except the declared one; none where the input takes raw pixels."""
    if model.raw:
        return []
    own = declared(model)
    return [norm for norm in KNOWN if own.difference(norm) > 1e-3]


def detections(
    model: Detector, images: Mapping[str, Any], norm: Normalization
) -> parity.Detections:
    """Run the artefact with another normalisation than it declares.

    With unsuitable input a network may overflow: then there are no detections.
    """
    pair = (norm.mean, norm.std)
    return {name: _detected(model, image, normalization=pair) for name, image in images.items()}


def _detected(model: Detector, image: Any, **changes: Any) -> list[dict[str, Any]]:
    try:
        return model.detect(image, **changes)
    except StageError:
        return []


def _each(
    model: Detector, images: Mapping[str, Any], raw: Mapping[str, dict[str, Any]]
) -> parity.Detections:
    """Read outputs as detections in their images."""
    return {
        name: model.in_photograph(model.read(outputs), images[name])
        for name, outputs in raw.items()
    }


def _exchanged(outputs: dict[str, Any]) -> dict[str, Any]:
    scores, classes = outputs[tflite_meta.SCORE], outputs[tflite_meta.CATEGORY]
    return {**outputs, tflite_meta.SCORE: classes, tflite_meta.CATEGORY: scores}


def _changed(
    found: parity.Detections, change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> parity.Detections:
    return {name: [{**item, **change(item)} for item in items] for name, items in found.items()}


def _turned(box: Sequence[float]) -> list[float]:
    return [box[1], box[0], box[3], box[2]]


def _renaming(source: parity.Detections, found: parity.Detections) -> dict[int, int]:
    """Map the artefact's class ids to the source's by boxes alone, with a weighted vote."""
    votes: dict[int, dict[int, float]] = {}
    for name, items in source.items():
        nameless = [[{**item, "class_id": 0} for item in one] for one in (items, found[name])]
        for pair in matching.match(*nameless):
            one, other = items[pair.left], found[name][pair.right]
            ballot = votes.setdefault(other["class_id"], {})
            weight = pair.iou * min(one["score"], other["score"])
            ballot[one["class_id"]] = ballot.get(one["class_id"], 0.0) + weight
    return {theirs: max(ballot, key=lambda ours: ballot[ours]) for theirs, ballot in votes.items()}
