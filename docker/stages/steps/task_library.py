"""Stage: compare with the detections of tflite-support's Task Library.

Android apps with the Task Library run the same code. It has its own metadata reader, so it also
checks our metadata against an independent implementation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.detect import detector
from stages.gates import parity, runtime_check
from stages.gates.result import Gate
from stages.tflite import output_roles, tflite_model

ENVIRONMENT = "metadata"

PARAMS = runtime_check.PARAMS

NAME = "runtime-task-library"

LIMITS = parity.Limits(score_difference=0.15, iou=0.6, unmatched=0.34, agreement=0.75)
"""Measured on the samples' twelve files and on 32 of families with random weights: scores within
0.071, boxes from IoU 0.789, nothing on one side only, agreement from 0.89. The library rounds
pixels before a float model sees them, boxes to whole pixels, and brings a TensorFlow Lite of its
own (dynamic-range kernels differ)."""

_FINER = 3
"""The library returns boxes in whole pixels of its picture. Given each pixel three times each way,
it scales back to the same input, and rounds boxes three times finer."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run ``inputs["model"]`` on ``inputs["pixels"]`` and compare with ``inputs["found"]``.

    Inputs: see :mod:`stages.gates.runtime_check`.

    Writes ``out/check.json``: ``{"gates": [...]}``.

    Returns:
        Facts: ``gates``: name -> status.
    """
    why = unsupported(inputs["model"])
    if why:
        return runtime_check.write(out, Gate(NAME, skipped=why))
    pictures, expected = runtime_check.fed(inputs)
    least, own = params["score_threshold"], params["nms_score_threshold"]
    gate = examine(inputs["model"], pictures, expected, least, own)
    return runtime_check.write(out, gate)


def unsupported(model: Path) -> str:
    """Return why the library does not take a sound artefact, or "" if it does."""
    try:
        graph = tflite_model.read(model.read_bytes()).graph
    except ValueError:  # damage is another gate's matter
        return ""
    kinds = [graph.tensors[index].type for index in graph.inputs]
    if len(graph.outputs) == len(output_roles.RAW_ROLES):
        return (
            "not applicable: the library reads boxes, classes, scores and count only, and this file"
            " has raw boxes and raw scores"
        )
    if kinds == ["int8"]:
        return "the library feeds float32 and uint8 only; an int8 input is for microcontrollers"
    return ""


def examine(
    model: Path,
    pictures: dict[str, Path],
    expected: dict[str, Any],
    threshold: float,
    own_threshold: float = 0.0,
) -> Gate:
    """Compute the gate's result.

    Args:
        model: the artefact.
        pictures: by image, a ``.npy`` file: uint8 [h, w, 3], RGB, of the model's input size.
        expected: by image, what TensorFlow's own interpreter finds.
        threshold: least score of a detection that counts.
        own_threshold: of the model's own post-processing: it outputs no lower score.
    """
    gate = Gate(NAME)
    version = _version()
    gate.figures["runtime"] = version
    try:
        found = detections(model, pictures)
    except (ValueError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        gate.problem(
            "refused",
            f"a file that {version} runs",
            said,
            "The metadata is not what the library's readers expect; its own words are the best "
            "hint.",
        )
        return gate
    if threshold >= 1:  # stages.steps.check: which detection is which cannot be told
        gate.summary = f"{version} runs it; its detections cannot be told apart"
        return gate
    shown = {name: expected[name] for name in pictures}
    same = parity.examine(shown, found, LIMITS, threshold, own_threshold=own_threshold)
    gate.figures.update(same.figures)
    if not pictures or any(problem.code == "nothing-found" for problem in same.problems):
        gate.summary = f"{version} runs it; nothing to compare"
        return gate
    for problem in same.problems:
        gate.problem(
            "differs",
            problem.expected,
            problem.seen,
            "The library reads the metadata in another way than it was meant, or its resizing "
            "and kernels differ more than is usual.",
        )
    labels = _other_label(expected, found)
    if labels:
        gate.problem("labels-differ", *labels, "The library sees another label file.")
    gate.summary = f"{version}: {same.summary}"
    return gate


def _version() -> str:
    from importlib import metadata

    return f"tflite-support {metadata.version('tflite-support')}"


def detections(model: Path, pictures: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Run the library: detections by image, with ``box`` as fractions, ``score``, ``class_id`` and
    ``label``.

    Args:
        model: a ``.tflite`` file.
        pictures: by image, a ``.npy`` file: uint8 [h, w, 3], RGB, of the model's input size.

    Raises:
        ValueError, RuntimeError: the library refuses the file; its own words.
    """
    from tflite_support.task import core, processor, vision

    detector = vision.ObjectDetector.create_from_options(
        vision.ObjectDetectorOptions(
            base_options=core.BaseOptions(file_name=str(model), num_threads=_threads(model)),
            detection_options=processor.DetectionOptions(max_results=100),
        )
    )
    return {name: _detect(vision, detector, path) for name, path in pictures.items()}


def _threads(model: Path) -> int:
    data = model.read_bytes()
    try:
        return detector.threads(data, tflite_model.read(data).graph)
    except (ValueError, IndexError):  # the library says in its own words what is wrong
        return 1


def _detect(vision: Any, detector: Any, path: Path) -> list[dict[str, Any]]:
    import numpy as np

    small = np.load(path, allow_pickle=False)
    # The library keeps a pointer to the array's memory, not the array: it must live until then.
    array = np.ascontiguousarray(small.repeat(_FINER, 0).repeat(_FINER, 1))
    height, width, _ = array.shape
    answer = detector.detect(vision.TensorImage.create_from_array(array))
    found = []
    for item in answer.detections:
        box, best = item.bounding_box, item.categories[0]
        found.append(
            {
                "box": [
                    box.origin_y / height,
                    box.origin_x / width,
                    (box.origin_y + box.height) / height,
                    (box.origin_x + box.width) / width,
                ],
                "score": float(best.score),
                "class_id": int(best.index) + 1,
                "label": str(best.category_name),
            }
        )
    return found


def _other_label(expected: Any, found: Any) -> tuple[str, ...]:
    """Return the first class with another name in the library: (expected, seen)."""
    names = {item["class_id"]: item["label"] for items in expected.values() for item in items}
    for items in found.values():
        for item in items:
            right = names.get(item["class_id"], item["label"])
            if item["label"] != right:
                return (f"class {item['class_id']} is called {right!r}", repr(item["label"]))
    return ()
