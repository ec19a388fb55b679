"""Copies of the fixtures with one thing changed, written by FlatBuffers' own code."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from places import FIXTURES

from stages.tflite import packed_files


def fixture(name: str) -> bytes:
    return (FIXTURES / f"{name}.tflite").read_bytes()


def rewritten(data: bytes, change: Callable[[Any], None] = lambda model: None) -> bytes:
    """``data``'s FlatBuffer unpacked into LiteRT's objects, changed, and packed again.

    What is packed behind the FlatBuffer is left out.
    """
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def packed_with_date(data: bytes, place: int, value: int) -> bytes:
    """``data`` with byte ``place`` of the date and time in its archive's first entry set."""
    changed = bytearray(data)
    changed[data.index(b"PK\x03\x04") + 10 + place] = value
    changed[data.index(b"PK\x01\x02") + 12 + place] = value
    return bytes(changed)


def damage(whole: bytes, data: st.DataObject) -> bytes:
    """``whole`` with some bytes and words set to others, or cut short."""
    changed = bytearray(whole)
    places = st.integers(0, len(whole) - 1)
    small = st.sampled_from([0, 1, 2, 127, 128, 255]) | st.integers(0, 255)
    for place, value in data.draw(st.lists(st.tuples(places, small), max_size=12)):
        changed[place] = value
    for place, value in data.draw(
        st.lists(st.tuples(places, st.integers(0, len(whole))), max_size=2)
    ):
        start = min(place & ~3, len(whole) - 4)
        changed[start : start + 4] = value.to_bytes(4, "little")
    size = data.draw(st.just(len(whole)) | places)
    return bytes(changed[:size])


def without_output_shapes(data: bytes) -> bytes:
    """An annotated file whose outputs have no shape, as converters leave them."""

    def drop(model: Any) -> None:
        for tensor in model.subgraphs[0].outputs:
            model.subgraphs[0].tensors[tensor].shape = []

    return packed_files.pack(rewritten(data, drop), packed_files.split(data)[1])


def with_own_threshold(data: bytes, threshold: float) -> bytes:
    """A toy SSD whose detection operator leaves out scores below ``threshold``; else unchanged.

    Its options end in a vector of 32-bit values in the order of their names: the IoU threshold,
    0.5, stands before the score threshold, 0.
    """
    before = struct.pack("<ffI", 0.5, 0.0, 3)  # and the number of classes behind it
    assert data.count(before) == 1
    return data.replace(before, struct.pack("<ffI", 0.5, threshold, 3))
