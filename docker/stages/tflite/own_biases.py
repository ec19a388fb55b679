"""Give every operator a bias of its own before 16x8 quantisation.

A detector's head is often one layer that runs on several levels of a pyramid: the operators of all
levels share one bias. Quantised, a bias has the scale of its operator's input times that of its
weights, so each level needs other integers. TensorFlow's quantiser for 16-bit activations computes
them once, for the first level, and lets the others read those: their scores are off by up to 0.4.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from stages.tflite import dequantize_order

_BIAS = 2
"""Position of the bias among an operator's inputs."""


@contextlib.contextmanager
def own_biases() -> Iterator[None]:
    """While active, the converter quantises the result of :func:`separated`."""
    from tensorflow.lite.python import lite

    original = lite.TFLiteConverterBase._quantize  # noqa: SLF001

    def quantize(converter: Any, model: bytes, *args: Any, **kwargs: Any) -> Any:
        return original(converter, separated(model), *args, **kwargs)

    lite.TFLiteConverterBase._quantize = quantize  # noqa: SLF001
    try:
        yield
    finally:
        lite.TFLiteConverterBase._quantize = original  # noqa: SLF001


def separated(data: bytes) -> bytes:
    """Copy each bias that several operators read, so that each has its own.

    Args:
        data: a ``.tflite`` file in float.

    Returns:
        ``data`` itself if no bias is shared; else a file that computes the same.
    """
    schema = dequantize_order.schema_module()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    with_bias = {
        schema.BuiltinOperator.CONV_2D,
        schema.BuiltinOperator.DEPTHWISE_CONV_2D,
        schema.BuiltinOperator.FULLY_CONNECTED,
    }
    changed = False
    for graph in model.subgraphs:
        taken = set()
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kind = max(code.builtinCode, code.deprecatedBuiltinCode)
            if kind not in with_bias or len(operator.inputs) <= _BIAS:
                continue
            bias = int(operator.inputs[_BIAS])
            if bias < 0:  # left out
                continue
            buffer = graph.tensors[bias].buffer
            if buffer in taken:
                inputs = [int(tensor) for tensor in operator.inputs]
                inputs[_BIAS] = _copy(model, graph, bias)
                operator.inputs = inputs
                changed = True
            taken.add(buffer)
    return dequantize_order.packed(model, data) if changed else data


def _copy(model: Any, graph: Any, tensor: int) -> int:
    """Append a copy of a constant tensor with a buffer of its own; return its number."""
    made = copy.copy(graph.tensors[tensor])
    made.name = made.name + b"/%d" % len(graph.tensors)
    made.buffer = len(model.buffers)
    model.buffers.append(copy.copy(model.buffers[graph.tensors[tensor].buffer]))
    graph.tensors.append(made)
    return len(graph.tensors) - 1
