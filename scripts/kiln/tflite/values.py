"""Compare two constant tensors as numbers, independent of how they are stored.

float32 against float16 or bfloat16, and integers with a scale against floats or against integers
with another scale, are compared as the real numbers they stand for: scale * (stored -
zero_point), in float64. Standard library only; the loops run inside the interpreter (``map`` over
``operator`` functions), so a million values take a few tenths of a second.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from operator import mul, sub, truediv
from typing import Any

from kiln.tflite.reading import type_name

_CODES = {
    "float32": "f", "float16": "e", "float64": "d", "int8": "b", "uint8": "B", "int16": "h",
    "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q", "bool": "B",
}  # fmt: skip
_NIBBLES = ("int4", "uint4")
_CHUNK = 1 << 16


@dataclass(frozen=True)
class ValueDifference:
    """How two constant tensors differ.

    Attributes:
        values: how many there are; 0 where they could only be compared as bytes.
        differing: how many of them differ (as real numbers; NaN is equal to NaN).
        largest: the largest absolute difference; infinite where only one of the two is finite.
        relative: ``largest`` over the largest finite magnitude in either tensor.
        index: where the largest difference is.
        a: the value there in the first tensor.
        b: the value there in the second.
        steps: where one tensor is quantised and the other is not, the largest difference in
            steps of the quantised one (0.5 or less is plain rounding); ``None`` otherwise and
            for int32, whose steps are finer than float32 is.
        rounded: where one is float16 and the other float32, whether the float16 values are just
            the float32 ones rounded to nearest, else ``None``.
    """

    values: int
    differing: int
    largest: float
    relative: float
    index: tuple[int, ...]
    a: float
    b: float
    steps: float | None
    rounded: bool | None


class Values:
    """The numbers of one constant tensor."""

    def __init__(self, tensor: Any, raw: memoryview) -> None:
        """``raw`` is the tensor's buffer."""
        self.type = type_name(tensor)
        self.raw = raw
        self.shape: tuple[int, ...] = tensor.shape
        self.count = math.prod(self.shape) if all(n >= 0 for n in self.shape) else -1
        self.quantization: Any = None if self.type.startswith("float") else tensor.quantization
        expected = {"bfloat16": 2 * self.count}.get(self.type)
        if self.type in _CODES:
            expected = struct.calcsize(_CODES[self.type]) * self.count
        elif self.type in _NIBBLES:
            expected = (self.count + 1) // 2
        self.numeric = expected == len(raw) and self.count > 0
        if self.quantization is not None:
            self._check_quantization()

    def _check_quantization(self) -> None:
        scale, zero = self.quantization.scale, self.quantization.zero_point
        axis = self.quantization.axis
        if zero and len(zero) not in (1, len(scale)):
            self.numeric = False
        if len(scale) > 1 and not (0 <= axis < len(self.shape) and self.shape[axis] == len(scale)):
            self.numeric = False

    def stored(self, start: int, stop: int) -> Sequence[float]:
        """Return the numbers as they are stored."""
        if self.type in _NIBBLES:
            return self._nibbles(start, stop)
        if self.type == "bfloat16":  # the upper half of a float32
            wide = bytearray(4 * (stop - start))
            wide[2::4] = self.raw[2 * start : 2 * stop : 2]
            wide[3::4] = self.raw[2 * start + 1 : 2 * stop : 2]
            return struct.unpack(f"<{stop - start}f", wide)
        code = _CODES[self.type]
        size = struct.calcsize(code)
        return struct.unpack(f"<{stop - start}{code}", self.raw[start * size : stop * size])

    def _nibbles(self, start: int, stop: int) -> list[int]:
        first = start // 2
        both = [n for byte in self.raw[first : (stop + 1) // 2] for n in (byte & 15, byte >> 4)]
        found = both[start - 2 * first : stop - 2 * first]
        return [n - 16 if n > 7 else n for n in found] if self.type == "int4" else found

    def scales(self, start: int, stop: int) -> list[float]:
        """Return the scale of each value; only where the tensor is quantised."""
        return self._spread(self.quantization.scale, start, stop)

    def real(self, start: int, stop: int) -> Sequence[float]:
        """Return the real numbers the values stand for."""
        stored = self.stored(start, stop)
        if self.quantization is None:
            return stored
        zero = self.quantization.zero_point
        if any(zero):
            stored = list(map(sub, stored, self._spread(zero, start, stop)))
        return list(map(mul, stored, self.scales(start, stop)))

    def _spread(self, values: tuple[Any, ...], start: int, stop: int) -> list[Any]:
        if len(values) == 1:
            return [values[0]] * (stop - start)
        inner: int = math.prod(self.shape[int(self.quantization.axis) + 1 :])
        if inner == 1:
            return list(
                islice(cycle(values), start % len(values), start % len(values) + stop - start)
            )
        found: list[Any] = []
        position = start
        while position < stop:
            end = min(stop, (position // inner + 1) * inner)
            found += [values[position // inner % len(values)]] * (end - position)
            position = end
        return found


def comparable(a: Any, raw_a: memoryview, b: Any, raw_b: memoryview) -> bool:
    """Whether two constant tensors hold the same number of numbers."""
    first, second = Values(a, raw_a), Values(b, raw_b)
    return first.numeric and second.numeric and first.count == second.count


def compare(a: Any, raw_a: memoryview, b: Any, raw_b: memoryview) -> ValueDifference | None:
    """Compare two constant tensors.

    Args:
        a: a tensor of :mod:`stages.tflite.tflite_model`.
        raw_a: its buffer.
        b: the other tensor.
        raw_b: its buffer.

    Returns:
        ``None`` where they stand for the same numbers in the same form (type, bytes).
    """
    first, second = Values(a, raw_a), Values(b, raw_b)
    same_form = first.type == second.type and first.quantization == second.quantization
    if first.type == second.type and raw_a == raw_b and same_form:
        return None
    if not (first.numeric and second.numeric and first.count == second.count):
        if first.type == second.type and raw_a == raw_b:
            return None
        return ValueDifference(0, 0, math.inf, math.inf, (), math.nan, math.nan, None, None)
    return _Comparison(first, second, same_form).result()


class _Comparison:
    def __init__(self, a: Values, b: Values, same_form: bool) -> None:
        self.a, self.b, self.same_form = a, b, same_form
        self.differing = 0
        self.largest, self.position = -1.0, 0
        self.range = 0.0
        one_sided = (a.quantization is None) != (b.quantization is None)
        self.quantised = (a if a.quantization else b) if one_sided else None
        if self.quantised is not None and self.quantised.type == "int32":
            self.quantised = None  # biases: a step is finer than float32 itself
        if self.quantised is not None and not all(s > 0 for s in self.quantised.quantization.scale):
            self.quantised = None
        self.steps = 0.0
        types = {a.type, b.type}
        self.halves = types == {"float16", "float32"}
        self.rounded = self.halves

    def result(self) -> ValueDifference:
        for start in range(0, self.a.count, _CHUNK):
            self._chunk(start, min(start + _CHUNK, self.a.count))
        where = self.position
        return ValueDifference(
            values=self.a.count,
            differing=self.differing,
            largest=self.largest,
            relative=self.largest / self.range if self.range else self.largest,
            index=_index(self.a.shape if len(self.a.shape) else self.b.shape, where),
            a=self.a.real(where, where + 1)[0],
            b=self.b.real(where, where + 1)[0],
            steps=self.steps if self.quantised is not None else None,
            rounded=self.rounded if self.halves else None,
        )

    def _chunk(self, start: int, stop: int) -> None:
        a, b = self.a.real(start, stop), self.b.real(start, stop)
        self.range = max(self.range, _magnitude(a), _magnitude(b))
        gaps = list(map(abs, map(sub, a, b)))
        if not math.isfinite(sum(gaps)):
            gaps = [_gap(x, y) for x, y in zip(a, b, strict=True)]
        largest = max(gaps)
        if largest > self.largest:
            self.largest, self.position = largest, start + gaps.index(largest)
        self.differing += len(gaps) - gaps.count(0)
        if self.quantised is not None:
            scales = self.quantised.scales(start, stop)
            self.steps = max(self.steps, max(map(truediv, gaps, scales)))
        if self.rounded:
            half, single = (a, b) if self.a.type == "float16" else (b, a)
            self.rounded = _rounds_to(single, half)


def _magnitude(values: Sequence[float]) -> float:
    largest = max(max(values), -min(values))
    if math.isfinite(largest) and math.isfinite(sum(values)):
        return largest
    return max((abs(value) for value in values if math.isfinite(value)), default=0.0)


def _gap(a: float, b: float) -> float:
    if a == b or (a != a and b != b):
        return 0.0
    gap = abs(a - b)
    return gap if math.isfinite(gap) else math.inf


def _rounds_to(single: Sequence[float], half: Sequence[float]) -> bool:
    try:
        rounded = struct.pack(f"<{len(single)}e", *single)
    except (OverflowError, ValueError):  # beyond 65504
        return False
    return rounded == struct.pack(f"<{len(half)}e", *half)


def _index(shape: tuple[int, ...], position: int) -> tuple[int, ...]:
    index = []
    for size in reversed(shape):
        index.append(position % size)
        position //= size
    return tuple(reversed(index))
