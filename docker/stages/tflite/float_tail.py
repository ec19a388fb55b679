"""Keep a CenterNet's decoding in float during full int8 quantisation.

CenterNet ends in plain arithmetic, not in a custom operator: it finds the peaks of a heat map,
takes the best, and computes boxes around them. Quantised like the rest, that fails:

* a peak is where ``|value - maximum of its neighbours| < 1e-6``. In int8 that 1e-6 is 0, nothing
  is below it, and every score of the file is 0;
* box sides, in a range of the whole image, would have one of 256 values;
* with 256 levels neighbouring values of the heat map are often equal, so that one object has
  several peaks.

So the quantiser is told to skip the operators behind the network, and the last convolution of each
head, whose finer output keeps neighbours apart. That is a few per cent of the arithmetic. Graphs
that end in ``TFLite_Detection_PostProcess`` (always float) are quantised as usual.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.tflite import float_layers, tflite_model

_CONVOLUTIONS = frozenset({3, 4, 9, 67})
"""CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV of ``BuiltinOperator``."""

_SEVERAL_OUTPUTS = {48: "TOPK_V2", 49: "SPLIT", 88: "UNPACK"}
"""Operators that the quantiser only knows by kind: it names a node after its only output.

They must be excluded: what the quantiser puts behind their outputs comes in hash table order, so
the same conversion would give different bytes each time.
"""


@contextlib.contextmanager
def left_in_float(tail: bool, layers: Sequence[str], outputs: Mapping[str, str]) -> Iterator[None]:
    """While active, the converter's full int8 quantisation skips what :func:`skipped` finds."""
    from tensorflow.lite.python import lite

    original = lite._mlir_quantize

    def quantize(calibrated: bytes, *args: Any, **kwargs: Any) -> Any:
        names, kinds = skipped(tflite_model.read(calibrated), tail, layers, outputs)
        if names or kinds:
            kwargs.update(denylisted_nodes=names, denylisted_ops=kinds)
        return original(calibrated, *args, **kwargs)

    lite._mlir_quantize = quantize
    try:
        yield
    finally:
        lite._mlir_quantize = original


def skipped(
    model: tflite_model.Model, tail: bool, layers: Sequence[str], outputs: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Find what is left in float.

    Args:
        model: the calibrated float graph.
        tail: whether that is :func:`decoding`.
        layers: what a user wants left, too (:func:`stages.tflite.float_layers.chosen`).
        outputs: the operations of the graph's outputs
            (:func:`stages.tflite.float_layers.short_names`).

    Returns:
        (names of the nodes' outputs, kinds of operators).

    Raises:
        StageError: one of ``layers`` does not exist.
    """
    names, kinds = decoding(model) if tail else ([], [])
    more, others = float_layers.chosen(model, layers, outputs)
    return list(dict.fromkeys([*names, *more])), sorted({*kinds, *others})


def decoding(model: tflite_model.Model) -> tuple[list[str], list[str]]:
    """Find the part of a detector behind its network, and the last convolutions before it.

    Returns:
        (names of the nodes' outputs, kinds of operators with several outputs), both empty where
        the graph ends in ``TFLite_Detection_PostProcess``. A kind is left in float everywhere; the
        network itself uses these kinds at most to split a batch of one image.
    """
    operators = model.graph.operators
    if any(operator.custom == tflite_model.DETECTION_POSTPROCESS for operator in operators):
        return [], []
    feeding: set[int] = set()  # tensors from which a convolution is reached
    inner = []
    for operator in reversed(operators):  # written in the order of execution
        inner.append(not feeding.isdisjoint(operator.outputs))
        if inner[-1] or operator.builtin in _CONVOLUTIONS:
            feeding.update(operator.inputs)
    inner.reverse()
    tail = [operator for operator, inside in zip(operators, inner) if not inside]
    names = [model.graph.tensors[tensor].name for op in tail for tensor in op.outputs]
    kinds = {op.builtin for op in tail if op.builtin in _SEVERAL_OUTPUTS}
    return names, sorted(_SEVERAL_OUTPUTS[kind] for kind in kinds)
