"""Decode FlexBuffers, the format of custom operators' options.

The format is that of FlatBuffers' ``flexbuffers.h``: read from the end, where the last byte is the
width of the root value and the one before it its packed type (kind times four, plus the binary
logarithm of the width its own items have). Everything is bounds-checked; cyclic values end in an
error, not in infinite recursion. Standard library only.
"""

from __future__ import annotations

import struct
from typing import Any

_NULL, _INT, _UINT, _FLOAT, _KEY, _STRING = 0, 1, 2, 3, 4, 5
_INDIRECT_INT, _INDIRECT_UINT, _INDIRECT_FLOAT = 6, 7, 8
_MAP, _VECTOR, _VECTOR_KEY, _VECTOR_STRING, _BLOB, _BOOL, _VECTOR_BOOL = 9, 10, 14, 15, 25, 26, 36
_TYPED = {11: _INT, 12: _UINT, 13: _FLOAT, _VECTOR_KEY: _KEY, _VECTOR_STRING: _STRING}
_TYPED[_VECTOR_BOOL] = _BOOL
_FIXED = {
    first + kind: (kind + _INT, count)
    for first, count in ((16, 2), (19, 3), (22, 4))
    for kind in range(3)
}  # vectors of 2, 3 or 4 numbers, stored without their length

_CODES = {_INT: "bhiq", _UINT: "BHIQ", _FLOAT: " efd", _BOOL: "BHIQ"}
_MAX_DEPTH = 32
_MAX_VALUES, _SPARE_BYTES = 100_000, 100_000


class FlexError(ValueError):
    """The data is not a FlexBuffer, or is truncated or damaged."""


def decode(data: bytes) -> Any:
    """Decode ``data`` to ``None``, a number, text, bytes, a list or a dict.

    Raises:
        FlexError: it is not a FlexBuffer, or is truncated or damaged.
    """
    if len(data) < 3:
        raise FlexError(f"{len(data)} bytes are not a FlexBuffer")
    width, packed = data[-1], data[-2]
    if width not in (1, 2, 4, 8):
        raise FlexError("not a FlexBuffer: its last byte is not a width")
    return _Decoder(data).value(len(data) - 2 - width, width, packed, 0)


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = _MAX_VALUES
        self.bytes = 4 * len(data) + _SPARE_BYTES

    def value(self, position: int, width: int, packed: int, depth: int) -> Any:
        """Return the value at ``position``, in a parent whose items are ``width`` bytes wide."""
        self.left -= 1
        if depth > _MAX_DEPTH or self.left < 0:
            raise FlexError("nested too deeply or too large: damaged")
        kind, inner = packed >> 2, 1 << (packed & 3)
        if kind == _NULL:
            return None
        if kind in _CODES:
            number = self.number(position, width, kind)
            return bool(number) if kind == _BOOL else number
        target = self.follow(position, width)
        if kind == _KEY:
            return self.key(target)
        if kind in (_INDIRECT_INT, _INDIRECT_UINT, _INDIRECT_FLOAT):
            return self.number(target, inner, kind - _INDIRECT_INT + _INT)
        if kind == _STRING:
            return self.raw(target, inner).decode("utf-8", errors="replace")
        if kind == _BLOB:
            return self.raw(target, inner)
        return self.collection(target, inner, kind, depth)

    def collection(self, start: int, width: int, kind: int, depth: int) -> Any:
        if kind in _FIXED:
            item, count = _FIXED[kind]
            return [self.number(start + width * index, width, item) for index in range(count)]
        count = self.length(start, width)
        if kind in _TYPED:
            packed = _TYPED[kind] << 2
            return [
                self.value(start + width * index, width, packed, depth + 1)
                for index in range(count)
            ]
        if kind not in (_MAP, _VECTOR):
            raise FlexError(f"a value of the unknown type {kind}")
        types = start + width * count
        self.check(types, count)
        items = [
            self.value(start + width * index, width, self.data[types + index], depth + 1)
            for index in range(count)
        ]
        if kind == _VECTOR:
            return items
        return dict(zip(self.keys(start, width, count), items, strict=True))

    def keys(self, start: int, width: int, count: int) -> list[str]:
        place = start - 3 * width
        self.check(place, 3 * width)
        vector = self.follow(place, width)
        key_width = self.number(place + width, width, _UINT)
        if key_width not in (1, 2, 4, 8) or self.length(vector, key_width) != count:
            raise FlexError("a map without its keys: damaged")
        return [
            self.key(self.follow(vector + key_width * index, key_width)) for index in range(count)
        ]

    def number(self, position: int, width: int, kind: int) -> Any:
        code = _CODES[kind][width.bit_length() - 1]
        if code == " ":
            raise FlexError("a floating-point number of one byte: damaged")
        self.check(position, width)
        return struct.unpack_from("<" + code, self.data, position)[0]

    def follow(self, position: int, width: int) -> int:
        target = position - int(self.number(position, width, _UINT))
        self.check(target, 0)
        return target

    def length(self, start: int, width: int) -> int:
        count = int(self.number(start - width, width, _UINT))
        self.check(start, count * width)
        return count

    def raw(self, start: int, width: int) -> bytes:
        size = int(self.number(start - width, width, _UINT))
        self.check(start, size)
        self.spend(size)
        return self.data[start : start + size]

    def key(self, start: int) -> str:
        end = self.data.find(b"\0", start)
        if end < 0:
            raise FlexError("a name without an end: damaged")
        self.spend(end - start)
        return self.data[start:end].decode("utf-8", errors="replace")

    def spend(self, size: int) -> None:
        """Refuse data whose texts are shared so often that decoding would not end soon."""
        self.bytes -= size
        if self.bytes < 0:
            raise FlexError("its texts refer to each other over and over: damaged")

    def check(self, start: int, size: int) -> None:
        if start < 0 or start + size > len(self.data):
            raise FlexError(f"a value at {start} leaves the data: truncated or damaged")
