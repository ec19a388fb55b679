"""Biases that several operators share, on a small model that today's LiteRT runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.tflite import dequantize_order, int16x8, tflite_model

pytest.importorskip("ai_edge_litert")
flatbuffers = pytest.importorskip("flatbuffers")

WEIGHTS, BIAS = [[1.0, 2.0], [3.0, 4.0]], [10.0, 20.0]
INPUT = [[1.0, 0.5]]


def _model(second_bias: str) -> bytes:
    """Two layers one behind the other, with the same weights; each bias is ``b`` or ``c``."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    model.operatorCodes = [code]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    values: dict[str, Any] = {"in": None, "w": WEIGHTS, "b": BIAS, "c": BIAS, "x": None, "y": None}
    numbers = {name: place for place, name in enumerate(values)}
    for name, value in values.items():
        item = schema.TensorT()
        item.name, item.buffer, item.type = name.encode(), 0, schema.TensorType.FLOAT32
        item.shape = [1, 2] if value is None else list(np.shape(value))
        if value is not None:
            item.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        graph.tensors.append(item)
    for names, output in (("in w b", "x"), (f"x w {second_bias}", "y")):
        operator = schema.OperatorT()
        operator.opcodeIndex = 0
        operator.inputs = [numbers[name] for name in names.split()]
        operator.outputs = [numbers[output]]
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [numbers["in"]], [numbers["y"]]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), tflite_model.IDENTIFIER)
    return bytes(builder.Output())


def _answer(data: bytes) -> list[list[float]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, np.float32(INPUT))
    interpreter.invoke()
    answer: list[list[float]] = interpreter.get_tensor(
        interpreter.get_output_details()[0]["index"]
    ).tolist()
    return answer


def test_each_layer_gets_a_bias_of_its_own() -> None:
    shared = _model("b")
    data = int16x8.separated(shared)
    graph = tflite_model.read(data).graph
    first, second = (operator.inputs[2] for operator in graph.operators)
    assert first != second
    assert graph.tensors[first].buffer != graph.tensors[second].buffer
    assert graph.tensors[first].name != graph.tensors[second].name
    x = np.float64(INPUT) @ np.transpose(WEIGHTS) + BIAS
    assert _answer(data) == _answer(shared) == (x @ np.transpose(WEIGHTS) + BIAS).tolist()
    assert int16x8.separated(data) is data  # nothing is shared any more


def test_a_file_without_shared_biases_stays() -> None:
    data = _model("c")
    assert int16x8.separated(data) is data


def test_the_same_file_gives_the_same_bytes() -> None:
    assert int16x8.separated(_model("b")) == int16x8.separated(_model("b"))
    assert dequantize_order.canonical(_model("b")) == _model("b")  # of no concern to it


def test_a_disguise_hides_operators_and_comes_off_again() -> None:
    data = _model("c")
    hidden = int16x8.disguised(data, ["y"], [])
    first, second = tflite_model.read(hidden).graph.operators
    assert (first.custom, second.custom) == ("", tflite_model.DETECTION_POSTPROCESS)
    both = tflite_model.read(int16x8.disguised(data, [], ["FULLY_CONNECTED"])).graph.operators
    assert {operator.custom for operator in both} == {tflite_model.DETECTION_POSTPROCESS}
    for changed in (hidden, int16x8.disguised(data, [], ["FULLY_CONNECTED"])):
        restored = int16x8.undisguised(changed, data)
        assert tflite_model.read(restored).graph == tflite_model.read(data).graph
        assert _answer(restored) == _answer(data)


def test_nothing_to_disguise() -> None:
    data = _model("c")
    assert int16x8.disguised(data, ["z"], ["CONV_2D"]) is data
    assert int16x8.undisguised(data, data) is data
