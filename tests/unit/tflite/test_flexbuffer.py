"""The FlexBuffer decoder against the FlatBuffers project's own writer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import FIXTURES

from kiln.tflite import flexbuffer
from kiln.tflite.facts import postprocessing
from kiln.tflite.reading import load

flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(-1e38, 1e38)  # the writer fails beyond float32
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)
    | st.binary(max_size=20)
)
keys = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=8)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5)
)


@given(trees)
def test_reads_what_flatbuffers_writes(value: Any) -> None:
    assert flexbuffer.decode(bytes(flexbuffers.Dumps(value))) == value


def test_reads_typed_vectors_and_indirect_numbers() -> None:
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.TypedVectorFromElements("ints", [1, -2, 300])
        builder.TypedVectorFromElements("floats", [0.5, 2.0])
        builder.FixedTypedVectorFromElements("three", [1, 2, 3])
        builder.FixedTypedVectorFromElements("four", [0.25, 1.0, -1.0, 8.0])
        builder.IndirectInt("indirect", -7)
        builder.IndirectFloat("ratio", 0.125)
        builder.IndirectUInt("large", 2**40)
        builder.TypedVectorFromElements("flags", [True, False, True])
    assert flexbuffer.decode(bytes(builder.Finish())) == {
        "ints": [1, -2, 300],
        "floats": [0.5, 2.0],
        "three": [1, 2, 3],
        "four": [0.25, 1.0, -1.0, 8.0],
        "indirect": -7,
        "ratio": 0.125,
        "large": 2**40,
        "flags": [True, False, True],
    }


@given(st.binary(max_size=200))
def test_anything_else_is_an_error_or_a_value(data: bytes) -> None:
    try:
        flexbuffer.decode(data)
    except flexbuffer.FlexError as error:
        assert str(error)


@given(trees, st.data())
def test_damage_is_an_error_or_a_value(value: Any, data: st.DataObject) -> None:
    raw = bytearray(flexbuffers.Dumps(value))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(0, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:size])):
        try:
            flexbuffer.decode(damaged)
        except flexbuffer.FlexError as error:
            assert str(error)


def test_a_vector_that_holds_itself_is_refused() -> None:
    # One item of width 1, a vector two bytes back: itself.
    with pytest.raises(flexbuffer.FlexError, match="nested too deeply"):
        flexbuffer.decode(bytes([1, 0, 10 << 2, 2, 10 << 2, 1]))


@pytest.mark.parametrize("name", ["toy_ssd", "toy_ssd_uint8_annotated"])
def test_options_of_the_postprocessing(name: str) -> None:
    """What make_toy_detectors.py asks the converter for."""
    assert postprocessing(load(FIXTURES / f"{name}.tflite")) == {
        "max_detections": 4,
        "max_classes_per_detection": 1,
        "num_classes": 3,
        "nms_score_threshold": 0.0,
        "nms_iou_threshold": 0.5,
        "use_regular_nms": False,
        "y_scale": 10.0,
        "x_scale": 10.0,
        "h_scale": 5.0,
        "w_scale": 5.0,
    }
