"""Recognise common detector files that the Task Library and MediaPipe cannot use, and say why."""

from __future__ import annotations

from typing import Any

from kiln.project.stagecode import stage_module
from kiln.tflite.reading import TfliteFile, type_name
from kiln.tflite.wording import count

EDGE_TPU = "edgetpu-custom-op"
"""The operator in which Google's Edge TPU compiler packs a model."""

ETHOS_U = "ethos-u"
"""The operator in which Arm's Vela packs what an Ethos-U NPU computes."""

_MEDIAPIPE_ANCHORS = b"DETECTOR_METADATA"
"""The custom metadata in which MediaPipe looks for anchors, if there are two outputs."""

_SERVING_OUTPUTS = {"detection_boxes", "detection_scores", "raw_detection_boxes"}
"""Outputs that the Object Detection API's inference graphs have, and exports for TFLite do not."""

_SERVED = 8
"""How many outputs such a graph of an SSD has."""


def description(file: TfliteFile) -> str:
    """Say what a file is and why a detector's client refuses it; "" for all other files."""
    operators = [op for graph in file.graphs for op in graph.operators]
    if any(op.name == EDGE_TPU for op in operators):
        return (
            f"compiled for the Edge TPU: only that device runs {EDGE_TPU}; anything else needs "
            "the file from before the compiler"
        )
    calls = sum(op.name == ETHOS_U for op in operators)
    if calls:
        rest = len(operators) - calls
        return (
            f"compiled for an Arm Ethos-U NPU: {count(calls, 'call')} of it, "
            f"{count(rest, 'operator')} beside it on the processor; anything without that NPU "
            "needs the file from before the compiler"
        )
    flex = sum(op.kind == "select-tf" for op in operators)
    needs = f"{count(flex, 'TensorFlow operator')} (Flex)"
    if _is_inference_graph(file):
        also = f", and have no kernels for its {needs}" if flex else ""
        return (
            f"an inference graph of exporter_main_v2 ({len(file.graphs[0].outputs)} outputs): "
            f"detector clients want boxes, classes, scores and count alone{also}; convert the "
            "checkpoint beside that export (kiln convert --checkpoint)"
        )
    if is_raw(file):
        if says_how_to_decode(file):
            return (
                "raw predictions, decode recipe inside: raw boxes and scores for GPU delegates and "
                f"NPUs, and {_decoding().FILE} with the anchors; clients that want boxes, classes, "
                "scores and count (Task Library, MediaPipe) refuse it"
            )
        if _MEDIAPIPE_ANCHORS in _metadata_of(file):
            return (
                "MediaPipe Model Maker's form: raw boxes and scores, decoded by MediaPipe with "
                "the anchors in the metadata; clients that want boxes, classes, scores and count "
                "(Task Library) refuse it"
            )
        return (
            "raw boxes and scores, not decoded, overlaps not suppressed (as Keras exports them): "
            "detector clients want boxes, classes, scores and count, and no anchors are in the "
            "metadata to make them from"
        )
    if flex:
        return (
            f"needs {needs}: the Task Library and MediaPipe have no kernels for them, other "
            "runtimes only with the select-TF delegate"
        )
    return ""


def _is_inference_graph(file: TfliteFile) -> bool:
    """Whether it was converted from what ``exporter_main_v2.py`` writes.

    Old files have no signatures, so their outputs have no names: then a picture as input and as
    many outputs must do.
    """
    graph = file.graphs[0]
    if any(item.outputs.keys() >= _SERVING_OUTPUTS for item in file.model.signatures):
        return True
    shapes = [graph.tensors[index].shape for index in graph.inputs if index >= 0]
    takes_picture = [(len(shape), *shape[3:]) for shape in shapes] == [(4, 3)]
    named = any(item.outputs for item in file.model.signatures)
    return not named and takes_picture and len(graph.outputs) == _SERVED


def is_raw(file: TfliteFile) -> bool:
    """Whether its two outputs are four numbers and some scores for each of the same places."""
    graph = file.graphs[0]
    if len(graph.outputs) != 2 or min(graph.outputs) < 0:
        return False
    tensors = [graph.tensors[index] for index in graph.outputs]
    shapes = [tensor.shape for tensor in tensors]
    return (
        all(len(shape) == 3 for shape in shapes)
        and shapes[0][:2] == shapes[1][:2]
        and any(shape[2] == 4 for shape in shapes)
        and all(type_name(tensor) in _NUMBERS for tensor in tensors)
    )


def says_how_to_decode(file: TfliteFile) -> bool:
    """Whether what kiln packs to decode raw predictions is inside, and can be read."""
    packed = {item.name: item.content for item in file.packing.files if item.content is not None}
    try:
        _decoding().parse(packed)
    except ValueError:
        return False
    return True


def _decoding() -> Any:
    return stage_module("tflite.decoding")


_NUMBERS = ("float32", "float16", "int8", "uint8")


def _metadata_of(file: TfliteFile) -> bytes:
    entry = stage_module("tflite.tflite_meta").ENTRY
    return bytes(file.model.metadata.get(entry, b""))
