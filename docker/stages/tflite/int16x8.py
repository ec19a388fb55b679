"""Repair what TensorFlow's quantiser for 16-bit activations does wrong.

It is an older one than that for int8, and differs in two ways:

* An operator's quantised bias has the scale of its input times that of its weights. A detector's
  head is often one layer that runs on several levels of a pyramid, whose operators share one bias.
  The quantiser computes it once, for the first level, and lets the others read that: their scores
  are off by up to 0.4. So every operator gets a bias of its own before.
* It cannot be told to leave operators in float (:mod:`stages.tflite.float_tail` says why some have
  to be). It does leave custom operators, so these are disguised as such while it works.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from stages.tflite import dequantize_order, float_layers, float_tail, tflite_model

_BIAS = 2
"""Position of the bias among an operator's inputs."""

_DISGUISE = tflite_model.DETECTION_POSTPROCESS.encode()
"""Every interpreter knows this custom operator, also the one that the quantiser makes."""


@contextlib.contextmanager
def repaired(tail: bool, layers: Sequence[str], outputs: Mapping[str, str]) -> Iterator[None]:
    """While active, the older quantiser works right, and skips what a user wants left in float.

    Args:
        tail: as in :func:`stages.tflite.float_tail.skipped`.
        layers: likewise.
        outputs: likewise.
    """
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    original = Calibrator.calibrate_and_quantize

    def quantize(calibrator: Any, pictures: Any, *args: Any, **kwargs: Any) -> bytes:
        data = separated(calibrator.calibrate(pictures))
        names, kinds = float_tail.skipped(tflite_model.read(data), tail, layers, outputs)
        hidden = disguised(data, names, kinds)
        # The model holds the ranges that were measured: no picture is needed again.
        made = original(Calibrator(hidden), lambda: iter(()), *args, **kwargs)
        return undisguised(bytes(made), data)

    Calibrator.calibrate_and_quantize = quantize
    try:
        yield
    finally:
        Calibrator.calibrate_and_quantize = original


def disguised(data: bytes, names: Collection[str], kinds: Collection[str]) -> bytes:
    """Make custom operators of some operators.

    Args:
        data: a ``.tflite`` file.
        names: of outputs of such operators.
        kinds: of such operators.
    """
    schema = dequantize_order.schema_module()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    numbers = {number for number, kind in float_layers.kind_names().items() if kind in kinds}
    graph = model.subgraphs[0]
    chosen = [
        place
        for place, operator in enumerate(graph.operators)
        if _kind(model, operator) in numbers
        or any(graph.tensors[output].name.decode() in names for output in operator.outputs)
    ]
    if not chosen:
        return data
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = _DISGUISE, 1
    model.operatorCodes.append(code)
    for place in chosen:
        hidden = schema.OperatorT()
        hidden.opcodeIndex = len(model.operatorCodes) - 1
        hidden.inputs, hidden.outputs = (
            graph.operators[place].inputs,
            graph.operators[place].outputs,
        )
        hidden.customOptions = list(_marked(place))
        graph.operators[place] = hidden
    _drop_unused_codes(model)
    return dequantize_order.packed(model, data)


def undisguised(data: bytes, original: bytes) -> bytes:
    """Undo :func:`disguised` in a file that was made of its result.

    Args:
        data: that file.
        original: what :func:`disguised` was given.
    """
    if _MARK not in data:
        return data
    schema = dequantize_order.schema_module()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    before = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(original, 0))
    codes: dict[int, int] = {}
    for operator in model.subgraphs[0].operators:
        options = (
            b"" if operator.customOptions is None else bytes(bytearray(operator.customOptions))
        )
        if not options.startswith(_MARK):
            continue
        real = before.subgraphs[0].operators[int(options[len(_MARK) :])]
        if real.opcodeIndex not in codes:
            codes[real.opcodeIndex] = len(model.operatorCodes)
            model.operatorCodes.append(before.operatorCodes[real.opcodeIndex])
        operator.opcodeIndex = codes[real.opcodeIndex]
        operator.customOptions = real.customOptions
        operator.builtinOptions = real.builtinOptions
        operator.builtinOptionsType = real.builtinOptionsType
    return dequantize_order.packed(model, data)


def _drop_unused_codes(model: Any) -> None:
    """Remove operator codes without an operator: the calibrator knows no kernel for them."""
    used = sorted(
        {operator.opcodeIndex for graph in model.subgraphs for operator in graph.operators}
    )
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = used.index(operator.opcodeIndex)


_MARK = b"kiln: operator "


def _marked(place: int) -> bytes:
    return _MARK + str(place).encode()


def _kind(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


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
            if _kind(model, operator) not in with_bias or len(operator.inputs) <= _BIAS:
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
