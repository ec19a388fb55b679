"""Compare what a runtime finds with what TensorFlow's interpreter found in the same pixels.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from stages.detect import matching
from stages.gates import parity
from stages.gates.result import Gate, beside
from stages.tflite import decoding, tflite_model

Detections = Mapping[str, Sequence[Mapping[str, Any]]]
"""By image: its detections, as :meth:`stages.detect.detector.Detector.detect` returns them."""

LITERT, MEDIAPIPE = "runtime-litert", "runtime-mediapipe"
"""Names of the gates."""

_SHOWN = 5  # detections that a problem names
_DIGITS = 6  # of figures


@dataclass(frozen=True)
class Limits:
    """Allowed deviations of a runtime from TensorFlow's interpreter.

    Attributes:
        score: largest difference of a pair's scores. A detection without a counterpart counts
            only where it is above the threshold by more than this.
        mean_iou: least mean intersection over union of the pairs.
        min_iou: least of any pair (a pair needs at least 0.5).
        unmatched: largest share of detections that only one of the two has.
    """

    score: float
    mean_iou: float
    min_iou: float
    unmatched: float = 0.0


# Measured on all variants of the three samples and of eight families with random weights, on
# photographs, detections with scores from 0.3: LiteRT 2.3.0 and MediaPipe 1.2 against TensorFlow
# 2.15.1. The samples that know shapes return noise on photographs, and random weights are worse:
# differences are largest there. Each bound leaves at least a quarter more than the largest
# difference; docs/checks.md lists them all, and a test checks these bounds against that table.
EXACT = Limits(score=0.01, mean_iou=0.99, min_iou=0.99)
"""Float arithmetic, the same input: scores within 0.00001, IoU from 0.9999."""

HYBRID = Limits(score=0.25, mean_iou=0.85, min_iou=0.5, unmatched=0.2)
"""Weights in eight bits, activations in float (``dynamic``). Kernels quantise activations on the
way, each in ranges of its own choice (XNNPACK's by row, others by batch), so that builtin,
reference and XNNPACK kernels differ, old ones from new ones, and one processor's from another's.
Between any two of these on the worst file, EfficientDet-D1: scores within 0.105, mean IoU from
0.904, least 0.617, one of 16 without a counterpart; on a Xeon with AVX-512 its mean IoU was 0.8995
at least, but less than 0.9."""

INTEGER = Limits(score=0.3, mean_iou=0.75, min_iou=0.5, unmatched=0.2)
"""Activations in eight bits, too (``int8``). XNNPACK's kernels of old and new versions were equal
on many files; builtin and reference ones, which EfficientDet-Lite's image runs, were not. On the
worst file, EfficientDet-D1: scores within 0.211, mean IoU from 0.839, least 0.649, one of seven
without a counterpart."""

INTEGER_16 = Limits(score=0.05, mean_iou=0.9, min_iou=0.5, unmatched=0.2)
"""Activations in 16 bits (``int16x8``). No runtime has kernels but the builtin ones for it."""

ROUNDED_INPUT = Limits(score=0.05, mean_iou=0.9, min_iou=0.5)
"""Float arithmetic, but boxes are whole pixels: scores within 0.016, mean IoU from 0.976, least
0.663 (noise; else 0.97)."""

LIMITS: dict[tuple[str, str], Limits] = {
    (LITERT, "float"): EXACT,
    (LITERT, "hybrid"): HYBRID,
    (LITERT, "integer"): INTEGER,
    (LITERT, "integer-16"): INTEGER_16,
    (MEDIAPIPE, "float"): ROUNDED_INPUT,
    (MEDIAPIPE, "hybrid"): HYBRID,
    (MEDIAPIPE, "integer"): INTEGER,
    (MEDIAPIPE, "integer-16"): INTEGER_16,
}
"""By gate and arithmetic (see :func:`arithmetic`)."""


@dataclass(frozen=True)
class Question:
    """What a runtime's detections are compared with.

    Attributes:
        expected: what TensorFlow's interpreter found in the same pixels.
        threshold: least score of a detection that counts; from 1 on none does
            (:data:`stages.steps.check.NOTHING`).
        own_threshold: of the model's own post-processing: it outputs no lower score.
        room: how many detections an output can hold; None: not known.
        limits: allowed differences.
    """

    expected: Detections
    threshold: float
    own_threshold: float
    room: Optional[int]
    limits: Limits


def arithmetic(data: bytes) -> str:
    """Return what a file computes in: ``float``, ``hybrid``, ``integer`` or ``integer-16``.

    ``hybrid`` where weights are in eight bits, ``integer`` where activations are, too, and
    ``integer-16`` where those are in 16 bits.
    """
    try:
        model = tflite_model.read(data)
    except ValueError:
        return "float"  # no limit will be needed
    graph = model.graph
    if any(tensor.type == "int16" for tensor in graph.tensors):
        return "integer-16"
    eight = [
        index for index, tensor in enumerate(graph.tensors) if tensor.type in ("int8", "uint8")
    ]
    stored = [index for index in eight if len(model.buffers[graph.tensors[index].buffer])]
    if not stored:
        return "float"
    return "integer" if set(eight) - set(stored) - set(graph.inputs) else "hybrid"


def room_of(data: bytes) -> Optional[int]:
    """Return how many detections an output can hold; None where the file does not tell.

    TFLite's detection operator states it in its options, other graphs in the shape of an output,
    and a file of raw boxes in how they are decoded.
    """
    from flatbuffers import flexbuffers

    try:
        model = tflite_model.read(data)
        files = tflite_model.packed_files(data)
        if decoding.FILE in files:
            return int(decoding.parse(files).suppression.max_detections)
        for operator in model.graph.operators:
            if operator.custom == tflite_model.DETECTION_POSTPROCESS:
                return int(flexbuffers.Loads(operator.options)["max_detections"])
        shapes = [model.graph.tensors[index].shape for index in model.graph.outputs]
    except Exception:  # the flexbuffer library's own are many
        return None
    return next((shape[1] for shape in shapes if len(shape) == 3), None)


@dataclass
class Difference:
    """The differences of two sets of detections, over all images."""

    ious: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return them as plain data."""

        def rounded(value: Optional[float]) -> Optional[float]:
            return None if value is None else round(value, _DIGITS)

        def mean(values: list[float]) -> Optional[float]:
            return rounded(sum(values) / len(values)) if values else None

        return {
            "pairs": len(self.ious),
            "min_iou": rounded(min(self.ious, default=None)),
            "mean_iou": mean(self.ious),
            "max_score_difference": rounded(max(self.scores, default=None)),
            "missed": len(self.missed),
            "extra": len(self.extra),
            "agreement": mean(self.agreements),
        }


def judge(gate: Gate, title: str, question: Question, found: Detections) -> dict[str, Any]:
    """Add to ``gate`` what ``found`` has otherwise than it should; return the figures.

    Args:
        title: the runtime, for messages: ``LiteRT 2.3.0's Interpreter``.
    """
    if question.threshold >= 1:
        return {}
    difference = compare(question, found, as_mediapipe=gate.name == MEDIAPIPE)
    cause = (
        f"{title} computes differently from TensorFlow, or reads the file's metadata differently "
        "(normalisation, order of the outputs, boxes, labels)"
    )
    for code, expected, seen in _problems(difference, question):
        gate.problem(code, expected, f"{title}: {seen}", cause)
    return difference.figures()


def compare(question: Question, found: Detections, *, as_mediapipe: bool = False) -> Difference:
    """Pair detections, and collect how they differ."""
    threshold, margin = question.threshold, question.limits.score
    total = Difference()
    for name, items in question.expected.items():
        if as_mediapipe:
            left = [_as_mediapipe(item) for item in items]
            right = [{**item, "class_id": item["label"]} for item in found[name]]
        else:
            left, right = (
                [{**item, "class_id": (item["class_id"], item["label"])} for item in side]
                for side in (items, found[name])
            )
        ends = (parity.end_of(left, question.room), parity.end_of(right, question.room))
        left, right = parity.without_cut(
            left, right, ends, margin, threshold, question.own_threshold
        )
        result = matching.compare(left, right, threshold)
        total.ious += result["ious"]
        total.scores += result["score_differences"]
        total.agreements.append(matching.agreement(left, right))
        for kind, into in (("missed", total.missed), ("extra", total.extra)):
            into += [
                f"{item['label']} {beside(item['score'], threshold + margin)} in {name}"
                for item in result[kind]
                if item["score"] >= threshold + margin
            ]
    return total


def said_of(figures: Mapping[str, Any], images: int) -> str:
    """Say in words what was found alike: "finds the same 3 detections in 2 images: …"."""
    where = f"in {images} image{'' if images == 1 else 's'}"
    if not figures:
        return "runs it; its detections cannot be told apart"
    if not figures["pairs"]:
        return f"runs it; there is nothing to find {where}"
    count = f"{figures['pairs']} detection{'' if figures['pairs'] == 1 else 's'}"
    return (
        f"finds the same {count} {where}: IoU from {figures['min_iou']:.3f}, scores within "
        f"{figures['max_score_difference']:.2g}"
    )


def _as_mediapipe(item: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a detection to the form that MediaPipe would report.

    Classes by label. MediaPipe moves the upper left corner of a box that leaves the image to the
    edge and keeps its size, up to the image's (measured: converted this way such boxes match with
    IoU from 0.97; clipped to the image only from 0.87, unchanged from 0.81).
    """
    ymin, xmin, ymax, xmax = item["box"]
    top, left = max(ymin, 0.0), max(xmin, 0.0)
    box = [top, left, top + min(ymax - ymin, 1.0), left + min(xmax - xmin, 1.0)]
    return {**item, "box": box, "class_id": item["label"]}


def _problems(difference: Difference, question: Question) -> list[tuple[str, str, str]]:
    """List what exceeds the limits: code, expected, seen."""
    limits = question.limits
    found = []
    unmatched = len(difference.missed) + len(difference.extra)
    allowed = unmatched <= limits.unmatched * (len(difference.ious) + unmatched)
    for code, names, expected in (
        ("missed", difference.missed, "found"),
        ("extra", difference.extra, "not found"),
    ):
        if names and not allowed:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            seen = f"{len(names)} {code}: {', '.join(names[:_SHOWN])}{more}"
            least = question.threshold + limits.score
            found.append((code, f"{expected}, like all from score {least:g}", seen))
    if difference.ious:
        # As stages.gates.parity judges: one pair in twenty may be of neighbours.
        apart = -parity.but_the_worst([-size for size in difference.scores])
        if apart > limits.score:
            seen = f"score difference {beside(apart, limits.score)}"
            found.append(("score", f"at most {limits.score:g}", seen))
        overlaps = {
            "mean IoU": (sum(difference.ious) / len(difference.ious), limits.mean_iou),
            "min IoU": (parity.but_the_worst(difference.ious), limits.min_iou),
        }
        for words, (overlap, least) in overlaps.items():
            if overlap < least:
                seen = f"{words} {beside(overlap, least)}"
                found.append(("boxes", f"at least {least:g}", seen))
    return found
