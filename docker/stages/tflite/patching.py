"""Replace single vectors and tables of a FlatBuffer without writing it anew.

What is new goes behind the end of the data, and the reference that led to the old one is pointed
at it. No other byte changes, so weights stay aligned and tensors keep their numbers. The old one
stays where it was, out of reach, and may still be in use through another reference. Standard
library only.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

_ALIGNMENT = 16  # of a vector's content: the strictest that TFLite's schema asks for


@dataclass(frozen=True)
class Vector:
    """A vector's number of items and their bytes; it is followed by a zero byte, as text is."""

    count: int
    content: bytes


def text(words: str) -> Vector:
    """Make a string."""
    return raw(words.encode("utf-8"))


def raw(content: bytes) -> Vector:
    """Make a vector of bytes."""
    return Vector(len(content), content)


def numbers(values: Sequence[int]) -> Vector:
    """Make a vector of signed 32-bit numbers."""
    return Vector(len(values), struct.pack(f"<{len(values)}i", *values))


def replaced(data: bytes, vectors: Mapping[int, Vector]) -> bytes:
    """Return ``data`` with other vectors.

    Args:
        data: a FlatBuffer without anything behind it.
        vectors: position of a field that refers to a vector (:meth:`flatbuffer.Table.where`) ->
            what it shall refer to.
    """
    result = bytearray(data)
    for position, vector in vectors.items():
        # The length, 4 bytes, is right before the content.
        result += bytes(-(len(result) + 4) % _ALIGNMENT)
        struct.pack_into("<I", result, position, len(result) - position)
        result += struct.pack("<I", vector.count) + vector.content + b"\0"
    result += bytes(-len(result) % _ALIGNMENT)
    return bytes(result)


def with_table(data: bytes, position: int, fields: Mapping[int, Union[Vector, bytes]]) -> bytes:
    """Return ``data`` with a new table where a reference leads.

    A table that lacks a field has no room for it, so all its fields are written again.

    Args:
        data: a FlatBuffer without anything behind it.
        position: of the reference.
        fields: slot -> a vector, or the little-endian bytes of a number, at most four. Others are
            absent.
    """
    places = {slot: 4 + 4 * number for number, slot in enumerate(sorted(fields))}
    slots = [places.get(slot, 0) for slot in range(max(fields) + 1)]
    vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), 4 + 4 * len(fields), *slots)
    vtable += bytes(-len(vtable) % 4)
    result = bytearray(data) + bytes(-len(data) % 4) + vtable
    table = len(result)
    struct.pack_into("<I", result, position, table - position)
    result += struct.pack("<i", len(vtable))
    for slot in places:
        field = fields[slot]
        result += bytes(4) if isinstance(field, Vector) else field.ljust(4, b"\0")
    vectors = {
        table + place: field
        for slot, place in places.items()
        if isinstance(field := fields[slot], Vector)
    }
    return replaced(bytes(result), vectors)
