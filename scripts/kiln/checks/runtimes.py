"""Check artefacts in today's runtimes outside the images: do applications get the same results?

LiteRT runs a file by its metadata as :mod:`stages.detect.detector` reads it. MediaPipe Tasks reads
the metadata itself, so its gate shows whether an independent reader understands it. The expected
detections are those of TensorFlow's interpreter inside the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln.checks import runtime_worker, worker_process
from kiln.checks.runtime_worker import LITERT, MEDIAPIPE
from kiln.core.digest import key_of, sha256_file, tree_digest
from kiln.core.errors import UsageError
from kiln.project.folders import own_resources
from kiln.project.stagecode import stage_module
from kiln.tflite.flexbuffer import decode

Gate = dict[str, Any]
"""``gate``, ``status`` (passed, failed, skipped), ``summary``, ``problems``, ``figures``."""

Detections = Mapping[str, Sequence[Mapping[str, Any]]]
"""By image: its detections, as :meth:`stages.detect.detector.Detector.detect` returns them."""

GATES = {LITERT: "runtime-litert", MEDIAPIPE: "runtime-mediapipe"}
_TITLES = {LITERT: "LiteRT", MEDIAPIPE: "MediaPipe"}

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
"""Float arithmetic, but pixels (as MediaPipe needs them) are whole numbers after resizing, and
boxes whole pixels: scores within 0.016, mean IoU from 0.976, least 0.663 (noise; else 0.97)."""

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
"""By runtime and arithmetic (see :func:`arithmetic`)."""


def installed() -> list[str]:
    """List the installed runtimes with their versions; see
    :func:`kiln.checks.worker_process.installed`."""
    return worker_process.installed("ai-edge-litert", "mediapipe")


def code_digest() -> str:
    """Compute the SHA-256 of all code that decides the result of :func:`check_outside`, in hex."""
    ours = [Path(__file__), Path(runtime_worker.__file__), Path(worker_process.__file__)]
    stages = tree_digest(own_resources() / "docker" / "stages")
    return key_of({"stages": stages, "modules": [sha256_file(path) for path in ours]})


def check_outside(
    models: Mapping[str, Path],
    images: Mapping[str, Path],
    expected: Mapping[str, Detections],
    score_threshold: float = 0.3,
    *,
    rounded: Mapping[str, Detections] | None = None,
    pictures: Mapping[str, Mapping[str, Path]] | None = None,
    limits: Mapping[tuple[str, str], Limits] = LIMITS,
    silence: float = worker_process.SILENCE,
    ahead: worker_process.Ahead | None = None,
) -> dict[str, list[Gate]]:
    """Run the artefacts of one model in LiteRT and MediaPipe, all in one separate process.

    Args:
        models: by variant, the ``.tflite`` files.
        images: by file name, the check images. Without ``pictures``, MediaPipe gets these: then
            they must have the input's size.
        expected: by variant and image, the detections of TensorFlow's interpreter: box (fractions
            of the image), score, class_id, label; scores from half of ``score_threshold`` on.
        score_threshold: least score of a detection that counts.
        rounded: the same for pixels rounded to whole numbers, as MediaPipe feeds them to float
            inputs; only these images are given to it. None: ``expected`` is used.
        pictures: by variant and image of ``rounded``, the input's pixels in which those detections
            were found: ``.npy`` files, uint8 [height, width, 3]. Nothing here resizes photographs
            for MediaPipe, which would stretch them.
        limits: allowed differences.
        silence: most seconds without a message from the process.
        ahead: a process that was started early.

    Returns:
        By variant, the gates ``runtime-litert`` and ``runtime-mediapipe``: plain JSON.

    Raises:
        UsageError: ``expected`` is about other images, or the interpreter named in
            ``KILN_RUNTIMES_PYTHON`` is not a program.
    """
    for variant in models:
        if expected[variant].keys() != images.keys():
            raise UsageError(f"The expected detections of {variant} are about other images.")
    gates: dict[tuple[str, str], Gate] = {}
    asked: list[tuple[str, str]] = []
    for runtime in GATES:  # MediaPipe is loaded last, if at all: it takes seconds
        for variant, path in models.items():
            reason = why_not(runtime, path)
            if reason:
                gates[variant, runtime] = _gate(runtime, "skipped", f"skipped: {reason}")
            else:
                asked.append((variant, runtime))
    wanted = {LITERT: expected, MEDIAPIPE: expected if rounded is None else rounded}
    ready = {MEDIAPIPE: pictures} if pictures is not None else {}
    items = [
        {
            "task": "detect",
            "runtime": runtime,
            "model": str(models[variant].absolute()),
            "images": {
                name: str(path.absolute())
                for name, path in (ready[runtime][variant] if runtime in ready else images).items()
                if name in wanted[runtime][variant]
            },
            "ready": runtime in ready,
            # As stages.detect.matching counts: a counterpart may have half the score.
            "score_threshold": score_threshold / 2,
        }
        for variant, runtime in asked
    ]
    outcomes = worker_process.run(items, silence=silence, ahead=ahead)
    for (variant, runtime), outcome in zip(asked, outcomes, strict=True):
        limit = limits[runtime, arithmetic(models[variant])]
        gates[variant, runtime] = _judge(
            runtime, models[variant], outcome, wanted[runtime][variant], score_threshold, limit
        )
    return {variant: [gates[variant, runtime] for runtime in GATES] for variant in models}


def why_not(runtime: str, path: Path) -> str:
    """Return why a runtime cannot run a sound artefact, or "" if it should.

    The rules come from experiments with MediaPipe 1.2; any other refusal is a failure. Damaged
    files are not covered here.
    """
    if runtime != MEDIAPIPE:
        return ""
    try:
        model = stage_module("tflite.tflite_model").read(path.read_bytes())
        metadata = stage_module("tflite.tflite_meta").read(model)
    except (ValueError, OSError):
        return ""
    if metadata is None or not metadata.inputs or not model.graph.inputs:
        return ""
    if len(model.graph.outputs) == len(stage_module("tflite.output_roles").RAW_ROLES):
        return (
            "not applicable: it reads boxes, classes, scores and count, and this file has raw boxes"
            " and raw scores"
        )
    image, tensor = metadata.inputs[0], model.graph.tensors[model.graph.inputs[0]]
    if tensor.type == "int8":
        return "MediaPipe feeds float32 and uint8 only; an int8 input is for microcontrollers"
    if tensor.type == "float32" and max(len(set(image.mean)), len(set(image.std))) > 1:
        return (
            "MediaPipe normalises all colour channels alike and supports nothing else; "
            f"this float input needs mean {list(image.mean)} and std {list(image.std)}"
        )
    return ""


def arithmetic(path: Path) -> str:
    """Return what a file computes in: ``float``, ``hybrid``, ``integer`` or ``integer-16``.

    ``hybrid`` where weights are in eight bits, ``integer`` where activations are, too, and
    ``integer-16`` where those are in 16 bits.
    """
    try:
        model = stage_module("tflite.tflite_model").read(path.read_bytes())
    except (ValueError, OSError):
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


def room_of(path: Path) -> int | None:
    """Return how many detections an output can hold; None where the file does not tell.

    TFLite's detection operator states it in its options, other graphs in the shape of an output,
    and a file of raw boxes in how they are decoded.
    """
    try:
        data = path.read_bytes()
        model = stage_module("tflite.tflite_model").read(data)
        raw = _decoding(data)
        if raw is not None:
            return int(raw.suppression.max_detections)
        options = _operator_options(model)
        if options is not None:
            return int(options["max_detections"])
        shapes = [model.graph.tensors[index].shape for index in model.graph.outputs]
    except (ValueError, OSError, KeyError, TypeError):
        return None
    return next((shape[1] for shape in shapes if len(shape) == 3), None)


def own_threshold_of(path: Path) -> float:
    """Return the score below which the file outputs nothing; 0 where it does not tell.

    TFLite's detection operator states it in its options, a file of raw boxes in how they are
    decoded.
    """
    try:
        data = path.read_bytes()
        model = stage_module("tflite.tflite_model").read(data)
        raw = _decoding(data)
        if raw is not None:
            return max(raw.suppression.score_threshold or 0.0, 0.0)
        options = _operator_options(model)
        return 0.0 if options is None else max(float(options["nms_score_threshold"]), 0.0)
    except (ValueError, OSError, KeyError, TypeError):
        return 0.0


def _decoding(data: bytes) -> Any:
    """Read how raw boxes are decoded; None of a file that does not say it.

    Raises:
        ValueError: what it says cannot be read.
    """
    module = stage_module("tflite.decoding")
    files = stage_module("tflite.tflite_model").packed_files(data)
    return module.parse(files) if module.FILE in files else None


def _operator_options(model: Any) -> Any:
    """Decode the options of TFLite's detection operator; None where the graph has none."""
    code = stage_module("tflite.tflite_model").DETECTION_POSTPROCESS
    for operator in model.graph.operators:
        if operator.custom == code:
            return decode(operator.options)
    return None


# --- verdicts ------------------------------------------------------------------------------


@dataclass
class _Difference:
    """The differences of two sets of detections, over all images."""

    ious: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        def rounded(value: float | None) -> float | None:
            return None if value is None else round(value, _DIGITS)

        def mean(values: list[float]) -> float | None:
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


def _judge(
    runtime: str,
    model: Path,
    outcome: worker_process.Outcome,
    expected: Detections,
    threshold: float,
    limits: Limits,
) -> Gate:
    title = _TITLES[runtime]
    if isinstance(outcome, worker_process.Died):
        verb = "did not answer" if outcome.code == "timeout" else "did not survive the model"
        return _failed(runtime, {}, f"{title} {verb}", outcome.code, "detections", outcome.reason)
    if "missing" in outcome:
        summary = f"{outcome['missing']} is not installed (`make runtimes` installs it)"
        return _gate(runtime, "skipped", summary)
    if "unsafe" in outcome:
        summary = f"skipped: {title} sends usage metrics to its maker, and here {outcome['unsafe']}"
        return _gate(runtime, "skipped", summary)
    name, version = outcome["runtime"].split(" ", 1)
    if "unimportable" in outcome:  # the machine's fault, not the artefact's
        summary = (
            f"skipped: {title} {version} cannot be loaded: {outcome['unimportable']} (MediaPipe "
            "needs Debian's and Ubuntu's libegl1 and libgles2; `make runtimes` installs the rest)"
        )
        return _gate(runtime, "skipped", summary)
    figures = {"runtime": name, "version": version, "images": len(expected)}
    for code, verb in (("refused", "refuses the model"), ("failed", "could not run the model")):
        if code in outcome:
            summary = f"{title} {version} {verb}: {outcome[code]}"
            return _failed(runtime, figures, summary, code, "detections", outcome[code])
    ends = (room_of(model), own_threshold_of(model))
    difference = _difference(runtime, expected, outcome["detections"], threshold, limits, *ends)
    figures |= difference.figures()
    problems = _problems(figures, difference, threshold, limits, title)
    if problems:
        summary = f"{title} {version} finds something different: " + "; ".join(
            f"{item['seen']} (expected {item['expected']})" for item in problems
        )
        return {**_gate(runtime, "failed", summary, figures), "problems": problems}
    where = f"in {len(expected)} image{'' if len(expected) == 1 else 's'}"
    if not figures["pairs"]:
        summary = f"{title} {version} runs it; there is nothing to find {where}"
    else:
        count = f"{figures['pairs']} detection{'' if figures['pairs'] == 1 else 's'}"
        summary = (
            f"{title} {version} finds the same {count} {where}: IoU from "
            f"{figures['min_iou']:.3f}, scores within {figures['max_score_difference']:.2g}"
        )
    return _gate(runtime, "passed", summary, figures)


def _difference(
    runtime: str,
    expected: Detections,
    found: Detections,
    threshold: float,
    limits: Limits,
    room: int | None,
    own_threshold: float,
) -> _Difference:
    matching = stage_module("detect.matching")
    parity, beside = stage_module("gates.parity"), stage_module("gates.result").beside
    total = _Difference()
    for name in expected:
        if runtime == MEDIAPIPE:
            left = [_as_mediapipe(item) for item in expected[name]]
            right = [{**item, "class_id": item["label"]} for item in found[name]]
        else:
            left, right = (
                [{**item, "class_id": (item["class_id"], item["label"])} for item in items]
                for items in (expected[name], found[name])
            )
        ends = (parity.end_of(left, room), parity.end_of(right, room))
        left, right = parity.without_cut(left, right, ends, limits.score, threshold, own_threshold)
        result = matching.compare(left, right, threshold)
        total.ious += result["ious"]
        total.scores += result["score_differences"]
        total.agreements.append(matching.agreement(left, right))
        for kind, into in (("missed", total.missed), ("extra", total.extra)):
            into += [
                f"{item['label']} {beside(item['score'], threshold + limits.score)} in {name}"
                for item in result[kind]
                if item["score"] >= threshold + limits.score
            ]
    return total


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


def _problems(
    figures: Mapping[str, Any],
    difference: _Difference,
    threshold: float,
    limits: Limits,
    title: str,
) -> list[dict[str, str]]:
    cause = (
        f"{title} computes differently from TensorFlow, or reads the file's metadata differently "
        "(normalisation, order of the outputs, boxes, labels)"
    )
    beside = stage_module("gates.result").beside
    found = []
    unmatched = len(difference.missed) + len(difference.extra)
    allowed = unmatched <= limits.unmatched * (figures["pairs"] + unmatched)
    for code, names, expected in (
        ("missed", difference.missed, "found"),
        ("extra", difference.extra, "not found"),
    ):
        if names and not allowed:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            seen = f"{len(names)} {code}: {', '.join(names[:_SHOWN])}{more}"
            least = threshold + limits.score
            found.append((code, f"{expected}, like all from score {least:g}", seen))
    if figures["pairs"]:
        # As stages.gates.parity judges: one pair in twenty may be of neighbours.
        but_the_worst = stage_module("gates.parity").but_the_worst
        apart = -but_the_worst([-size for size in difference.scores])
        if apart > limits.score:
            seen = f"score difference {beside(apart, limits.score)}"
            found.append(("score", f"at most {limits.score:g}", seen))
        overlaps = {
            "mean IoU": (figures["mean_iou"], limits.mean_iou),
            "min IoU": (but_the_worst(difference.ious), limits.min_iou),
        }
        for words, (overlap, least) in overlaps.items():
            if overlap < least:
                seen = f"{words} {beside(overlap, least)}"
                found.append(("boxes", f"at least {least:g}", seen))
    return [
        {"code": code, "expected": expected, "seen": seen, "cause": cause}
        for code, expected, seen in found
    ]


def _gate(
    runtime: str, status: str, summary: str, figures: Mapping[str, Any] | None = None
) -> Gate:
    return {
        "gate": GATES[runtime],
        "status": status,
        "summary": summary,
        "problems": [],
        "figures": dict(figures or {}),
    }


def _failed(
    runtime: str, figures: Mapping[str, Any], summary: str, code: str, expected: str, seen: str
) -> Gate:
    problem = {"code": code, "expected": expected, "seen": seen, "cause": summary}
    if code in ("crashed", "timeout"):
        summary = f"{summary}: {seen}"
    return {**_gate(runtime, "failed", summary, figures), "problems": [problem]}
