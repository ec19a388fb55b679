"""A toy with a depthwise and a plain convolution, in float and as dynamic-range conversion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

CHANNELS, OUTPUTS, SIDE = 3, 8, 4
IMAGE = np.linspace(-1, 1, SIDE * SIDE * CHANNELS, dtype=np.float32).reshape(1, SIDE, SIDE, -1)
_KINDS = {"DEPTHWISE_CONV_2D": 1, "CONV_2D": 1}
_HYBRID = {"DEPTHWISE_CONV_2D": 6, "CONV_2D": 5}
"""Versions of the operators with float weights, and with int8 ones, a scale for each channel."""


def weights() -> dict[str, Any]:
    """Both kernels: 1x3x3x3, and 8x3x3x3 of eight outputs."""
    random = np.random.default_rng(7)
    kernels = {"depthwise": (1, 3, 3, CHANNELS), "conv": (OUTPUTS, 3, 3, CHANNELS)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in kernels.items()}


def model(
    dynamic: bool,
    kernels: dict[str, Any] | None = None,
    change: Callable[[Any], None] | None = None,
) -> bytes:
    """``relu(depthwise(image))``, then a convolution; ``dynamic``: of int8 weights.

    Args:
        dynamic: as TensorFlow's converter makes it with ``Optimize.DEFAULT``.
        kernels: other weights than :func:`weights`.
        change: makes another file of it before it is written.
    """
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    made = schema.ModelT()
    made.version, made.buffers = 3, [schema.BufferT()]
    made.operatorCodes = [
        _code(schema, name, (_HYBRID if dynamic else _KINDS)[name]) for name in _KINDS
    ]
    graph = schema.SubGraphT()
    graph.tensors = []

    def tensor(name: str, shape: tuple[int, ...], values: Any = None, axis: int = 0) -> int:
        item = schema.TensorT()
        item.name, item.shape, item.type, item.hasRank = name.encode(), list(shape), 0, True
        buffer = schema.BufferT()
        if values is not None:
            if dynamic and len(shape) == 4:  # biases stay in float
                item.type = schema.TensorType.INT8
                item.quantization, values = _quantised(schema, values, axis)
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        item.buffer = len(made.buffers)
        made.buffers.append(buffer)
        graph.tensors.append(item)
        return len(graph.tensors) - 1

    given = kernels or weights()
    image = tensor("image", IMAGE.shape)
    first = tensor("dw", given["depthwise"].shape, given["depthwise"], 3)
    second = tensor("pw", given["conv"].shape, given["conv"])
    biases = [
        tensor(f"bias {size}", (size,), np.ones(size, np.float32)) for size in (CHANNELS, OUTPUTS)
    ]
    middle, answer = tensor("middle", IMAGE.shape), tensor("answer", (1, SIDE, SIDE, OUTPUTS))
    graph.inputs, graph.outputs = [image], [answer]
    depthwise, conv = schema.DepthwiseConv2DOptionsT(), schema.Conv2DOptionsT()
    for options in (depthwise, conv):
        options.strideH = options.strideW = 1
        options.dilationHFactor = options.dilationWFactor = 1
    depthwise.depthMultiplier = 1
    depthwise.fusedActivationFunction = schema.ActivationFunctionType.RELU
    kinds = schema.BuiltinOptions
    graph.operators = [
        _operator(
            schema, 0, [image, first, biases[0]], middle, kinds.DepthwiseConv2DOptions, depthwise
        ),
        _operator(schema, 1, [middle, second, biases[1]], answer, kinds.Conv2DOptions, conv),
    ]
    made.subgraphs = [graph]
    if change is not None:
        change(made)
    builder = flatbuffers.Builder(0)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def answer(data: bytes) -> Any:
    """What the runtime computes of :data:`IMAGE`."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], IMAGE)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _code(schema: Any, name: str, version: int) -> Any:
    item = schema.OperatorCodeT()
    item.builtinCode = item.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    item.version = version
    return item


def _operator(
    schema: Any, code: int, inputs: list[int], output: int, kind: int, options: Any
) -> Any:
    item = schema.OperatorT()
    item.opcodeIndex, item.inputs, item.outputs = code, inputs, [output]
    item.builtinOptionsType, item.builtinOptions = kind, options
    return item


def _quantised(schema: Any, values: Any, axis: int) -> tuple[Any, Any]:
    others = tuple(number for number in range(4) if number != axis)
    scale = np.abs(values).max(axis=others) / 127
    found = schema.QuantizationParametersT()
    found.scale, found.zeroPoint = scale.tolist(), [0] * len(scale)
    found.quantizedDimension = axis
    steps = values / scale.reshape([-1 if number == axis else 1 for number in range(4)])
    return found, np.rint(steps).astype(np.int8)
