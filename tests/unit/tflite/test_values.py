"""Constant tensors compared as numbers, against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln.tflite import values
from stages.tflite.tflite_model import Quantization, Tensor

TYPES = {
    "float32": "<f4", "float16": "<f2", "float64": "<f8", "int8": "<i1", "uint8": "<u1",
    "int16": "<i2", "int32": "<i4", "int64": "<i8", "uint16": "<u2",
}  # fmt: skip


def tensor(kind: str, shape: tuple[int, ...], quantization: Quantization | None = None) -> Tensor:
    return Tensor("t", kind, shape, (), 1, quantization, False)


def compare(
    a: Any, b: Any, kind: str = "float32", other: str = "", shape: tuple[int, ...] | None = None
) -> values.ValueDifference | None:
    """Compare two lists of plain numbers."""
    shape = (len(a),) if shape is None else shape
    one = np.array(a, TYPES[kind]).tobytes()
    two = np.array(b, TYPES[other or kind]).tobytes()
    return values.compare(
        tensor(kind, shape), memoryview(one), tensor(other or kind, shape), memoryview(two)
    )


def real(raw: Any, quantization: Quantization | None, axis: int) -> Any:
    """Dequantised by numpy."""
    if quantization is None:
        return raw.astype(np.float64)
    shape = [1] * raw.ndim
    shape[axis] = -1
    scale = np.array(quantization.scale, np.float64).reshape(shape)
    zero = np.array(quantization.zero_point or [0], np.float64)
    return (raw - zero.reshape(shape if len(zero) > 1 else [1] * raw.ndim)) * scale


def test_equal_is_none() -> None:
    assert compare([1, 2, 3], [1, 2, 3]) is None
    assert compare([math.nan], [math.nan]) is None


def test_one_value() -> None:
    found = compare([0.0, 1.0, -4.0, 2.0], [0.0, 1.0, -4.0, 2.5], shape=(2, 2))
    assert found is not None
    assert (found.values, found.differing, found.index) == (4, 1, (1, 1))
    assert (found.a, found.b, found.largest, found.relative) == (2.0, 2.5, 0.5, 0.125)
    assert found.steps is found.rounded is None


def test_not_finite() -> None:
    found = compare([1.0, math.nan, 1.0], [1.0, 5.0, 1.5])
    assert found is not None
    assert (found.differing, found.largest, found.index) == (2, math.inf, (1,))
    found = compare([math.inf, math.nan, 1.0], [math.inf, math.nan, 1.5])
    assert found is not None
    assert (found.differing, found.largest, found.index, found.relative) == (1, 0.5, (2,), 1 / 3)


def test_zeros_of_two_signs_are_the_same_number_in_other_bytes() -> None:
    found = compare([0.0, 1.0], [-0.0, 1.0])
    assert found is not None
    assert (found.values, found.differing, found.largest) == (2, 0, 0.0)


def test_float16_that_is_rounded_and_that_is_not() -> None:
    numbers = np.linspace(-3, 3, 100_001).astype(np.float32)
    rounded = numbers.astype(np.float16)
    found = compare(numbers, rounded, "float32", "float16")
    assert found is not None and found.rounded is True
    assert found.largest == np.abs(numbers.astype(float) - rounded.astype(float)).max()
    rounded[70_000] = np.nextafter(rounded[70_000], np.float16(10))
    found = compare(numbers, rounded, "float32", "float16")
    assert found is not None and found.rounded is False
    found = compare(rounded, numbers, "float16", "float32")
    assert found is not None and found.rounded is False


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
def test_channels_on_every_axis(axis: int, kind: str) -> None:
    chance = np.random.default_rng(5)
    shape = (3, 700, 41)  # more than one chunk
    raw = chance.integers(0, 120, shape).astype(TYPES[kind])
    scale = tuple(float(s) for s in chance.uniform(0.01, 0.1, shape[axis]))
    zero = tuple(int(z) for z in chance.integers(0, 9, shape[axis]))
    quantization = Quantization(scale, zero, axis)
    exact = real(raw, quantization, axis)
    floats = (exact + chance.uniform(-0.004, 0.004, shape)).astype(np.float32)
    found = values.compare(
        tensor("float32", shape),
        memoryview(floats.tobytes()),
        tensor(kind, shape, quantization),
        memoryview(raw.tobytes()),
    )
    assert found is not None
    gaps = np.abs(floats.astype(np.float64) - exact)
    steps = gaps / np.array(scale).reshape([-1 if i == axis else 1 for i in range(3)])
    assert found.largest == pytest.approx(gaps.max(), rel=1e-12)
    assert found.index == tuple(np.unravel_index(gaps.argmax(), shape))
    assert found.differing == (gaps != 0).sum()
    assert found.steps == pytest.approx(steps.max(), rel=1e-12)
    assert found.relative == pytest.approx(
        gaps.max() / max(np.abs(floats).max(), np.abs(exact).max()), rel=1e-12
    )


def test_biases_have_no_steps() -> None:
    quantization = Quantization((1e-9,), (0,), 0)
    found = values.compare(
        tensor("float32", (1,)),
        memoryview(np.float32([0.1]).tobytes()),
        tensor("int32", (1,), quantization),
        memoryview(np.int32([100_000_001]).tobytes()),
    )
    assert found is not None and found.steps is None


@pytest.mark.parametrize(("kind", "expected"), [("int4", [-8, 7, -1]), ("uint4", [8, 7, 15])])
def test_half_bytes(kind: str, expected: list[int]) -> None:
    found = values.Values(tensor(kind, (3,)), memoryview(bytes([0x78, 0x0F])))
    assert list(found.stored(0, 3)) == expected
    assert list(found.stored(1, 2)) == expected[1:2]
    assert list(found.stored(2, 3)) == expected[2:]


def test_bfloat16() -> None:
    numbers = np.float32([1.0, -2.5, 0.15625])
    raw = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    found = values.Values(tensor("bfloat16", (3,)), memoryview(raw))
    assert list(found.stored(0, 3)) == [1.0, -2.5, 0.15625]
    assert list(found.stored(1, 3)) == [-2.5, 0.15625]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (tensor("float32", (2,)), tensor("float32", (3,))),  # the buffer does not fit
        (tensor("string", (2,)), tensor("string", (2,))),
        (tensor("float32", (-1,)), tensor("float32", (2,))),
        (tensor("int8", (8,), Quantization((1.0, 2.0), (), 0)), tensor("int8", (8,))),
        (tensor("int8", (8,), Quantization((1.0,) * 8, (0, 0), 0)), tensor("int8", (8,))),
        (tensor("int8", (8,), Quantization((1.0,) * 8, (0,), 5)), tensor("int8", (8,))),
    ],
)
def test_what_is_no_array_of_numbers_is_compared_as_bytes(one: Tensor, other: Tensor) -> None:
    assert not values.comparable(one, memoryview(b"\1" * 8), other, memoryview(b"\2" * 8))
    found = values.compare(one, memoryview(b"\1" * 8), other, memoryview(b"\2" * 8))
    assert found is not None and found.values == 0
    assert values.compare(one, memoryview(b"\1" * 8), other, memoryview(b"\1" * 8)) is None


@given(
    st.lists(
        st.tuples(st.floats(width=32), st.floats(width=32))
        | st.floats(width=32).map(lambda x: (x, x)),
        min_size=1,
        max_size=40,
    )
)
def test_any_floats(pairs: list[tuple[float, float]]) -> None:
    a, b = (np.array(side, np.float64) for side in zip(*pairs, strict=True))
    found = compare(a, b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if found is None:
        assert same.all()
        return
    assert found.differing == (~same).sum()
    with np.errstate(all="ignore"):
        gaps = np.where(same, 0.0, np.abs(a - b))
        gaps[np.isnan(gaps)] = np.inf
    assert found.largest == gaps.max()
    assert gaps[found.index] == found.largest
