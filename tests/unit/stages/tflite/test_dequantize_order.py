"""One order of tensors for float16 files, on a small model that today's LiteRT runs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from stages.tflite import dequantize_order, tflite_model

pytest.importorskip("ai_edge_litert")
flatbuffers = pytest.importorskip("flatbuffers")

WEIGHTS = {"a": [1.0, 2.0, 3.0], "b": [0.5, -0.25, 4.0], "c": [7.0, 8.0, 9.0]}
IMAGE = np.array([1.0, 10.0, 100.0], np.float32)


def _model(order: tuple[str, ...], placed: tuple[str, ...], suffix: str = "_dequantize") -> bytes:
    """(image + a) * b + c, with the dequantised weights' tensors and operators in any order."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = []
    for code in ("DEQUANTIZE", "ADD", "MUL"):
        item = schema.OperatorCodeT()
        item.builtinCode = item.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, code)
        item.version = 1
        model.operatorCodes.append(item)
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    numbers: dict[str, int] = {}

    def tensor(name: str, kind: int, data: Any = None) -> None:
        item = schema.TensorT()
        item.name, item.shape, item.type, item.buffer = name.encode(), [3], kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            item.buffer = len(model.buffers)
            model.buffers.append(buffer)
        numbers[name] = len(graph.tensors)
        graph.tensors.append(item)

    def operator(code: int, inputs: list[str], output: str) -> None:
        item = schema.OperatorT()
        item.opcodeIndex = code
        item.inputs, item.outputs = [numbers[name] for name in inputs], [numbers[output]]
        if code:
            options = "AddOptions" if code == 1 else "MulOptions"
            item.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            item.builtinOptions = getattr(schema, f"{options}T")()
        graph.operators.append(item)

    float32, float16 = schema.TensorType.FLOAT32, schema.TensorType.FLOAT16
    for name in ("image", "sum", "product", "answer"):
        tensor(name, float32)
    for name, values in WEIGHTS.items():
        tensor(name, float16, np.array(values, np.float16))
    for name in order:
        tensor(name + suffix, float32)
    for name in placed:
        operator(0, [name], name + suffix)
    operator(1, ["image", "a" + suffix], "sum")
    operator(2, ["sum", "b" + suffix], "product")
    operator(1, ["product", "c" + suffix], "answer")
    graph.inputs, graph.outputs = [numbers["image"]], [numbers["answer"]]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), tflite_model.IDENTIFIER)
    return bytes(builder.Output())


def _answer(data: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], IMAGE)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_any_order_gives_the_same_bytes_and_answers() -> None:
    orders = list(itertools.permutations(WEIGHTS))
    files = {_model(order, placed) for order, placed in itertools.product(orders, orders)}
    assert len(files) == len(orders) ** 2
    (canonical,) = {dequantize_order.canonical(data) for data in files}
    right = (IMAGE + WEIGHTS["a"]) * WEIGHTS["b"] + WEIGHTS["c"]
    np.testing.assert_array_equal(_answer(_model(orders[3], orders[4])), right.astype(np.float32))
    np.testing.assert_array_equal(_answer(canonical), right.astype(np.float32))
    assert dequantize_order.canonical(canonical) == canonical


def test_a_weight_is_dequantised_before_it_is_read() -> None:
    model = tflite_model.read(dequantize_order.canonical(_model(("c", "a", "b"), ("b", "c", "a"))))
    names = [model.graph.tensors[op.outputs[0]].name for op in model.graph.operators]
    weights = [f"{name}_dequantize" for name in WEIGHTS]
    assert names == [weights[0], "sum", weights[1], "product", weights[2], "answer"]
    assert [tensor.name for tensor in model.graph.tensors][-3:] == weights


def test_buffers_stay_aligned() -> None:
    data = dequantize_order.canonical(_model(("c", "a", "b"), ("b", "c", "a")))
    for values in WEIGHTS.values():
        assert data.index(np.array(values, np.float16).tobytes()) % 16 == 0


def test_other_files_are_left_alone() -> None:
    """Later TensorFlow versions give such tensors other names, and one order."""
    data = _model(("c", "a", "b"), ("b", "c", "a"), suffix="1")
    assert dequantize_order.canonical(data) is data
