"""The shapes of the detection operator's outputs, judged by what a runtime allocates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tflite_files import fixture, rewritten

from kiln.tflite import facts
from kiln.tflite.reading import load
from stages.protocol.failures import StageError
from stages.tflite import output_shapes, tflite_model

flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")
litert = pytest.importorskip("ai_edge_litert.interpreter")

EIGHT = np.full((1, 8, 8, 3), 0.5, np.float32)


def stated(data: bytes) -> list[tuple[int, ...]]:
    graph = tflite_model.read(data).graph
    return [graph.tensors[tensor].shape for tensor in graph.outputs]


def allocated(data: bytes) -> list[tuple[int, ...]]:
    """What the runtime makes room for, without a look at what the file says of its outputs."""
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    return [tuple(map(int, item["shape"])) for item in interpreter.get_output_details()]


def answers(data: bytes) -> list[Any]:
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], EIGHT)
    interpreter.invoke()
    return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]


def with_options(**options: Any) -> bytes:
    """The toy with other options of its detection operator; None leaves one out."""

    def change(model: Any) -> None:
        operator = model.subgraphs[0].operators[-1]
        found = flexbuffers.Loads(bytes(bytearray(operator.customOptions)))
        found = {name: value for name, value in {**found, **options}.items() if value is not None}
        operator.customOptions = list(flexbuffers.Dumps(found))

    return rewritten(fixture("toy_ssd"), change)


@pytest.mark.parametrize("name", ["toy_ssd", "toy_ssd_uint8"])
def test_they_are_what_a_runtime_allocates(name: str) -> None:
    data = fixture(name)
    assert stated(data) == [()] * 4
    written = output_shapes.written(data)
    assert stated(written) == [(1, 4), (1, 4, 4), (1,), (1, 4)]
    assert stated(written) == allocated(data) == allocated(written)


def test_the_outputs_are_the_same_numbers() -> None:
    data = fixture("toy_ssd")
    for one, other in zip(answers(data), answers(output_shapes.written(data)), strict=True):
        assert one.tobytes() == other.tobytes()


def test_several_classes_of_a_box_are_a_row_each() -> None:
    data = with_options(max_detections=3, max_classes_per_detection=2)
    written = output_shapes.written(data)
    assert stated(written) == allocated(data)
    assert facts.graph_roles(load(written)) == {0: "scores", 1: "boxes", 2: "count", 3: "classes"}
    assert stated(written)[1] == (1, 6, 4)


def drop_shapes(model: Any) -> None:
    """As older converters and tflite-support leave it: a table without the field."""
    for tensor in model.subgraphs[0].outputs:
        model.subgraphs[0].tensors[tensor].shape = None


def wrong_shapes(model: Any) -> None:
    for tensor in model.subgraphs[0].outputs:
        model.subgraphs[0].tensors[tensor].shape = [1, 10, 4]


def open_shapes(model: Any) -> None:
    for tensor in model.subgraphs[0].outputs:
        model.subgraphs[0].tensors[tensor].shape = [1, 4]
        model.subgraphs[0].tensors[tensor].shapeSignature = [1, -1]


@pytest.mark.parametrize("change", [drop_shapes, wrong_shapes, open_shapes])
def test_whatever_the_file_says_of_them(change: Callable[[Any], None]) -> None:
    written = output_shapes.written(rewritten(fixture("toy_ssd"), change))
    assert stated(written) == allocated(fixture("toy_ssd"))
    graph = tflite_model.read(written).graph
    assert not any(graph.tensors[tensor].shape_signature for tensor in graph.outputs)


def test_everything_else_stays() -> None:
    data = fixture("toy_ssd")
    before, after = (tflite_model.read(item) for item in (data, output_shapes.written(data)))
    tensors = [
        replace(tensor, shape=()) if number in after.graph.outputs else tensor
        for number, tensor in enumerate(after.graph.tensors)
    ]
    assert replace(after, subgraphs=(replace(after.graph, tensors=tuple(tensors)),)) == before


@pytest.mark.parametrize("name", ["toy_centernet", "toy_raw", "toy_ssd_annotated"])
def test_nothing_to_write(name: str) -> None:
    data = fixture(name)
    assert output_shapes.written(data) is data


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_detections": None}, "max_detections is not among them"),
        ({"max_detections": "many"}, "max_detections is 'many'"),
        ({"max_detections": 0}, "0 detections"),
        ({"max_detections": -5}, "-5 detections"),
        ({"max_classes_per_detection": 2**40}, "detections"),
    ],
)
def test_options_that_do_not_tell(options: dict[str, Any], words: str) -> None:
    with pytest.raises(StageError) as caught:
        output_shapes.written(with_options(**options))
    assert caught.value.kind == "unsupported-model"
    assert words in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, b"\x28\x04\x01"])
def test_options_that_are_none(content: bytes) -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].operators[-1].customOptions = list(content)

    with pytest.raises(StageError) as caught:
        output_shapes.written(rewritten(fixture("toy_ssd"), change))
    assert caught.value.kind == "unsupported-model"
