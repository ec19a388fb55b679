"""Describe tensors of a ``.tflite`` file anew: their shapes and types. Standard library only."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Union

from stages.tflite import flatbuffer, patching, tflite_model

_SUBGRAPHS, _TENSORS = 2, 0  # slots of Model and SubGraph in TensorFlow's schema.fbs
_SHAPE, _TYPE, _BUFFER, _NAME, _HAS_RANK = 0, 1, 2, 3, 8  # slots of Tensor


def replaced(data: bytes, graph: int, tensors: Mapping[int, tflite_model.Tensor]) -> bytes:
    """Return ``data`` with other descriptions of some tensors.

    Args:
        data: a ``.tflite`` without anything packed behind it.
        graph: the number of their graph.
        tensors: number -> the tensor; one of a static shape, not quantised, and no variable.
    """
    places = root(data).tables(_SUBGRAPHS)[graph].references(_TENSORS)
    for number, tensor in tensors.items():
        fields: dict[int, Union[patching.Vector, bytes]] = {
            _SHAPE: patching.numbers(tensor.shape),
            _TYPE: struct.pack("<b", tflite_model.TYPES.index(tensor.type)),
            _BUFFER: struct.pack("<I", tensor.buffer),
            _NAME: patching.text(tensor.name),
            # Newer readers take a tensor without it for one of unknown shape.
            _HAS_RANK: b"\1",
        }
        data = patching.with_table(data, places[number], fields)
    return data


def root(data: bytes) -> flatbuffer.Table:
    """Return the root table of a ``.tflite``."""
    return flatbuffer.root(data, tflite_model.IDENTIFIER, "TFLite model")
