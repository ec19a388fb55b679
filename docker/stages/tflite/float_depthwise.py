"""Keep the weights of depthwise convolutions in float in a dynamic-range file.

XNNPACK, which runs TFLite files on processors, has no depthwise convolution of int8 weights and
float activations. Each such operator is left to TFLite's own kernel, and the graph around it breaks
into parts. A plain dynamic-range file is slower than float32 for that, although these weights are a
few per cent of all.

TensorFlow's quantiser has a list of operators to skip, but its converter (2.8 as 2.15) passes none
on for dynamic range: what Python can name as ``denylisted_ops`` reaches full integer quantisation
only. So the weights are put back: from the float32 conversion of the same graph, after a comparison
of each with the int8 values that it replaces.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace

from stages.protocol.failures import StageError
from stages.tflite import flatbuffer, patching, tensor_tables, tflite_model

_MODEL_CODES, _MODEL_BUFFERS = 1, 4  # slots of Model in TensorFlow's schema.fbs
_CODE_VERSION = 2  # of OperatorCode
_DATA = 0  # of Buffer
_ROUNDING = 0.51
"""The largest difference between a weight and its int8 value, in steps: half of one is rounding,
the rest is the arithmetic in float32 that the quantiser did it with."""


def restored(data: bytes, floats: bytes) -> bytes:
    """Return a dynamic-range file with the float weights of its depthwise convolutions.

    Args:
        data: a dynamic-range ``.tflite`` as the converter returned it.
        floats: the float32 conversion of the same graph.

    Returns:
        ``data`` itself if no such weight is quantised.

    Raises:
        StageError: the files are not two conversions of one graph.
    """
    model, source = tflite_model.read(data), tflite_model.read(floats)
    if len(model.subgraphs) != len(source.subgraphs):
        raise _unlike(f"they have {len(model.subgraphs)} and {len(source.subgraphs)} graphs")
    buffers = {}
    subgraphs = []
    for number, (graph, other) in enumerate(zip(model.subgraphs, source.subgraphs)):
        changed: dict[int, tflite_model.Tensor] = {}
        for index, origin in _pairs(graph, other):
            tensor, wanted = graph.tensors[index], other.tensors[origin]
            stored, values = model.buffers[tensor.buffer], source.buffers[wanted.buffer]
            _compare(tensor, stored, wanted, values)
            if buffers.setdefault(tensor.buffer, values) != values:
                raise _unlike(f"{tensor.name} shares its values with others")
            changed[index] = replace(tensor, type="float32", quantization=None)
        data = tensor_tables.replaced(data, number, changed)
        tensors = tuple(changed.get(index, one) for index, one in enumerate(graph.tensors))
        subgraphs.append(replace(graph, tensors=tensors))
    if not buffers:
        return data
    versions = [op.version for graph in source.subgraphs for op in _depthwise(graph)]
    expected = replace(
        model,
        subgraphs=tuple(_with_version(graph, max(versions)) for graph in subgraphs),
        buffers=tuple(buffers.get(number, one) for number, one in enumerate(model.buffers)),
    )
    result = _written(data, {number: bytes(one) for number, one in buffers.items()}, max(versions))
    if tflite_model.read(result) != expected:
        raise StageError(
            "stage-failed",
            "Float weights could not be put back without changing the rest of the model.",
            "This is a bug.",
        )
    return result


def quantised(graph: tflite_model.Subgraph) -> list[int]:
    """List the int8 weights of depthwise convolutions whose activations are float: tensors."""
    found = [
        operator.inputs[1]
        for operator in _depthwise(graph)
        if graph.tensors[operator.inputs[0]].type == "float32"
    ]
    return [index for index in dict.fromkeys(found) if graph.tensors[index].type == "int8"]


def _depthwise(graph: tflite_model.Subgraph) -> list[tflite_model.Operator]:
    return [
        operator
        for operator in graph.operators
        if operator.builtin == tflite_model.OP_DEPTHWISE_CONV_2D and len(operator.inputs) > 1
    ]


def _pairs(graph: tflite_model.Subgraph, other: tflite_model.Subgraph) -> Iterator[tuple[int, int]]:
    """Pair each quantised weight with the tensor that holds it in float."""
    wanted = quantised(graph)
    operators, others = _depthwise(graph), _depthwise(other)
    names = [
        [side.tensors[operator.outputs[0]].name for operator in found]
        for side, found in ((graph, operators), (other, others))
    ]
    if names[0] != names[1]:
        raise _unlike("their depthwise convolutions differ")
    read = {
        index
        for operator in graph.operators
        if operator.builtin != tflite_model.OP_DEPTHWISE_CONV_2D
        for index in operator.inputs
    }
    for one, two in zip(operators, others):
        if one.inputs[1] in wanted:
            if one.inputs[1] in read:
                raise _unlike(f"{graph.tensors[one.inputs[1]].name} is no weight alone")
            yield one.inputs[1], two.inputs[1]


def _compare(
    tensor: tflite_model.Tensor,
    stored: memoryview,
    wanted: tflite_model.Tensor,
    values: memoryview,
) -> None:
    """Check that the int8 values are these weights, rounded."""
    import numpy as np

    size = math.prod(tensor.shape)
    quantization = tensor.quantization
    if (wanted.type, wanted.shape, len(values), len(stored)) != (
        "float32", tensor.shape, 4 * size, size
    ) or quantization is None:  # fmt: skip
        raise _unlike(f"{tensor.name} is stored otherwise than {wanted.name}")
    scale = np.array(quantization.scale, np.float64)
    zero = np.array(quantization.zero_point or [0], np.float64)
    if len(scale) > 1 and (quantization.axis, len(scale)) != (3, tensor.shape[3]):
        raise _unlike(f"{tensor.name} is not quantised by channels")
    steps = np.frombuffer(stored, np.int8).reshape(tensor.shape) - zero
    weights = np.frombuffer(values, "<f4").reshape(tensor.shape)
    if not (np.abs(steps * scale - weights) <= _ROUNDING * scale).all():
        raise _unlike(f"{tensor.name} holds other weights than {wanted.name}")


def _with_version(graph: tflite_model.Subgraph, version: int) -> tflite_model.Subgraph:
    kind = tflite_model.OP_DEPTHWISE_CONV_2D
    return replace(
        graph,
        operators=tuple(
            replace(operator, version=version) if operator.builtin == kind else operator
            for operator in graph.operators
        ),
    )


def _written(data: bytes, buffers: dict[int, bytes], version: int) -> bytes:
    """Write the contents of buffers, and the version of the operator, into a file."""
    top = tensor_tables.root(data)
    result = bytearray(data)
    for code in top.tables(_MODEL_CODES):
        place = code.where(_CODE_VERSION)
        if place and tflite_model.builtin_code(code) == tflite_model.OP_DEPTHWISE_CONV_2D:
            struct.pack_into("<i", result, place, version)
    tables = top.tables(_MODEL_BUFFERS)
    vectors = {
        tables[number].where(_DATA): patching.raw(content) for number, content in buffers.items()
    }
    if 0 in vectors:
        raise flatbuffer.FlatError("a constant without content: damaged")
    return patching.replaced(bytes(result), vectors)


def _unlike(reason: str) -> StageError:
    return StageError(
        "stage-failed",
        "The float32 and the dynamic-range conversion are not of one graph: " + reason + ".",
        "This is a bug.",
    )
