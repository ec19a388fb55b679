"""``kiln inspect`` on detectors that no detector's client takes: it says what they are."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from compiled_toy import compiled_toy
from places import FIXTURES
from tflite_files import fixture, rewritten

from kiln.tflite.inspect import inspect
from kiln.tflite.schema import OPERATORS
from stages.tflite import packed_files

CUSTOM = OPERATORS.index("CUSTOM")


def said(data: bytes) -> str:
    found = inspect(data)
    words = found.as_json()["what_it_is"]
    if words is None:
        assert "  what it is" not in found.text()
        return ""
    assert f"what it is {words}" in " ".join(found.text().split())
    return str(words)


def to_custom(model: Any, name: bytes) -> None:
    """Make the first operator a custom one."""
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    code.customCode, code.builtinCode, code.deprecatedBuiltinCode = name, CUSTOM, CUSTOM


def with_outputs(model: Any, shapes: list[list[int]], names: list[bytes] | None) -> None:
    """Give the graph other outputs, computed by nothing, and a signature that names them."""
    graph = model.subgraphs[0]
    graph.outputs = []
    for shape in shapes:
        tensor = copy.copy(graph.tensors[graph.inputs[0]])
        tensor.name, tensor.shape, tensor.shapeSignature = b"out", shape, None
        graph.outputs.append(len(graph.tensors))
        graph.tensors.append(tensor)
    (signature,) = model.signatureDefs
    maps = []
    for name, index in zip(names or [], graph.outputs, strict=False):
        item = copy.copy(signature.outputs[0])
        item.name, item.tensorIndex = name, index
        maps.append(item)
    signature.outputs = maps
    if names is None:
        model.signatureDefs = None


SERVED = [
    b"detection_anchor_indices", b"detection_boxes", b"detection_classes",
    b"detection_multiclass_scores", b"detection_scores", b"num_detections",
    b"raw_detection_boxes", b"raw_detection_scores",
]  # fmt: skip
SERVED_SHAPES = [[1, 9], [1, 9, 4], [1, 9], [1, 9, 3], [1, 9], [1], [1, 20, 4], [1, 20, 3]]


DETECTORS = sorted(path for path in FIXTURES.glob("*.tflite") if "raw" not in path.stem)


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.stem)
def test_nothing_is_said_of_detectors_that_clients_take(path: Any) -> None:
    assert said(path.read_bytes()) == ""


def test_compiled_for_the_edge_tpu() -> None:
    words = said(rewritten(fixture("toy_ssd"), lambda m: to_custom(m, b"edgetpu-custom-op")))
    assert words.startswith("compiled for the Edge TPU: only that device runs")
    assert "from before the compiler" in words


def test_compiled_for_an_ethos_u() -> None:
    words = said(compiled_toy(fixture("toy_ssd_uint8")))
    assert words.startswith("compiled for an Arm Ethos-U NPU: 1 call of it, 12 operators beside it")


def test_another_custom_operator_is_not_the_edge_tpus() -> None:
    assert said(rewritten(fixture("toy_ssd"), lambda m: to_custom(m, b"MyOwn"))) == ""


@pytest.mark.parametrize("names", [SERVED, None], ids=["named", "without names"])
@pytest.mark.parametrize("flex", [False, True], ids=["builtin", "Flex"])
def test_an_inference_graph(names: list[bytes] | None, flex: bool) -> None:
    def change(model: Any) -> None:
        with_outputs(model, SERVED_SHAPES, names)
        if flex:
            to_custom(model, b"FlexWhere")

    words = said(rewritten(fixture("toy_ssd"), change))
    assert words.startswith("an inference graph of exporter_main_v2 (8 outputs): ")
    assert "kiln convert --checkpoint" in words
    assert ("no kernels for its 1 TensorFlow operator (Flex)" in words) == flex


def test_eight_outputs_with_other_names() -> None:
    names = [f"output_{index}".encode() for index in range(8)]
    change = lambda model: with_outputs(model, SERVED_SHAPES, names)  # noqa: E731
    assert said(rewritten(fixture("toy_ssd"), change)) == ""


def test_raw_predictions() -> None:
    for shapes in ([[1, 20, 4], [1, 20, 3]], [[1, 20, 3], [1, 20, 4]]):
        change = lambda model, some=shapes: with_outputs(model, some, [b"a", b"b"])  # noqa: E731
        words = said(rewritten(fixture("toy_ssd"), change))
        assert words.startswith("raw boxes and scores, not decoded")
        assert "no anchors are in the metadata" in words


def test_raw_predictions_that_say_how_they_are_decoded() -> None:
    assert said(fixture("toy_raw_annotated")).startswith("raw predictions, decode recipe inside: ")
    model, files = packed_files.split(fixture("toy_raw_annotated"))
    for name in ("decoding.json", "anchors.bin"):
        left = {other: data for other, data in files.items() if other != name}
        words = said(packed_files.pack(model, left))
        assert words.startswith("raw boxes and scores, not decoded")


def test_raw_predictions_with_mediapipes_anchors() -> None:
    def change(model: Any) -> None:
        with_outputs(model, [[1, 20, 4], [1, 20, 3]], [b"a", b"b"])
        (entry,) = [item for item in model.metadata if item.name == b"TFLITE_METADATA"]
        data = bytes(bytearray(model.buffers[entry.buffer].data)) + b"DETECTOR_METADATA\0"
        model.buffers[entry.buffer].data = np.frombuffer(data, np.uint8)

    words = said(rewritten(fixture("toy_ssd_annotated"), change))
    assert words.startswith("MediaPipe Model Maker's form")
    assert "Task Library" in words


@pytest.mark.parametrize(
    "shapes",
    [[[1, 20, 4]], [[1, 20, 5], [1, 20, 3]], [[1, 20, 4], [1, 21, 3]], [[1, 4], [1, 20]]],
    ids=["one output", "no four numbers", "other places", "no places"],
)
def test_other_outputs_are_not_raw_predictions(shapes: list[list[int]]) -> None:
    names = [b"a", b"b"][: len(shapes)]
    assert said(rewritten(fixture("toy_ssd"), lambda m: with_outputs(m, shapes, names))) == ""


def test_flex_alone() -> None:
    words = said(rewritten(fixture("toy_ssd"), lambda m: to_custom(m, b"FlexErf")))
    assert words.startswith("needs 1 TensorFlow operator (Flex): ")
