"""Read untrusted FlatBuffers without generated code.

A FlatBuffer is little-endian. A *table* starts with a signed 32-bit distance back to its
*vtable*: the vtable's own size, the table's size, and for each field slot the field's offset
inside the table (0: absent). Strings, vectors and sub-tables are reached by unsigned forward
offsets. This module knows nothing else; the schemas are in :mod:`stages.tflite.tflite_model` and
:mod:`stages.tflite.tflite_meta`.

Every access is checked against the end of the data, so a truncated or random file ends in a
:class:`FlatError`, never in an IndexError or in memory for a length that cannot be true.
Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Optional, Union

Bytes = Union[bytes, bytearray, memoryview]

_SIZES = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "q": 8, "Q": 8}


class FlatError(ValueError):
    """The data is not the FlatBuffer it should be: truncated, damaged, or something else."""


def root(data: Bytes, identifier: bytes, what: str) -> Table:
    """Return the root table of ``data``.

    Args:
        data: the whole buffer.
        identifier: the four bytes at offset 4 that name the schema.
        what: what the data should be, for the message ("TFLite model").

    Raises:
        FlatError: ``data`` is too short or carries another identifier.
    """
    view = memoryview(data).cast("B")
    if len(view) < 8 or bytes(view[4:8]) != identifier:
        raise FlatError(f"not a {what}: the identifier {identifier.decode('ascii')} is missing")
    start = scalar(view, 0, "I")
    return Table(view, start)


def scalar(view: memoryview, position: int, code: str) -> Any:
    """Read one little-endian number; ``code`` as in :mod:`struct`.

    Raises:
        FlatError: it would lie outside the data.
    """
    try:
        if position < 0:
            raise FlatError(f"an offset leads to {position}, before the start of the data")
        return struct.unpack_from("<" + code, view, position)[0]
    except struct.error as error:
        raise FlatError(
            f"an offset leads to {position}, but the data ends at {len(view)}: truncated or damaged"
        ) from error


class Table:
    """One table: fields by slot number, in the order of the schema (a union takes two slots).

    Args:
        view: the whole buffer.
        position: where the table starts, in bytes from the start of the buffer.

    Raises:
        FlatError: there is no table at ``position``.
    """

    def __init__(self, view: memoryview, position: int) -> None:
        self.view = view
        self.position = position
        self._vtable = position - scalar(view, position, "i")
        self._vtable_size = scalar(view, self._vtable, "H")
        self._size = scalar(view, self._vtable + 2, "H")
        if self._vtable_size < 4 or self._vtable_size % 2 or self._size < 4:
            raise FlatError(f"there is no table at {position}: truncated or damaged")
        if self._vtable + self._vtable_size > len(view) or position + self._size > len(view):
            raise FlatError(f"the table at {position} leaves the data: truncated or damaged")

    def where(self, slot: int) -> int:
        """Return the position of a field, 0 where it is absent (then its default applies)."""
        entry = 4 + 2 * slot
        if entry + 2 > self._vtable_size:
            return 0
        offset = scalar(self.view, self._vtable + entry, "H")
        return self.position + offset if offset else 0

    def number(self, slot: int, code: str, default: Any = 0) -> Any:
        """Read a number field; ``code`` as in :mod:`struct` (``b B h H i I f q Q``)."""
        position = self.where(slot)
        return scalar(self.view, position, code) if position else default

    def table(self, slot: int) -> Optional[Table]:
        """Read a sub-table, or ``None``."""
        position = self.where(slot)
        return Table(self.view, self._follow(position)) if position else None

    def text(self, slot: int, default: str = "") -> str:
        """Read a string (bytes that are not UTF-8 become replacement characters)."""
        position = self.where(slot)
        if not position:
            return default
        return _text(self.view, self._follow(position))

    def texts(self, slot: int) -> list[str]:
        """Read a vector of strings."""
        return [_text(self.view, target) for target in self._targets(slot)]

    def tables(self, slot: int) -> list[Table]:
        """Read a vector of tables."""
        return [Table(self.view, target) for target in self._targets(slot)]

    def references(self, slot: int) -> list[int]:
        """Return where the references to a vector's tables are, in the vector's order."""
        position = self.where(slot)
        if not position:
            return []
        start = self._follow(position) + 4
        return [start + at for at in range(0, len(_vector(self.view, start - 4, 4)), 4)]

    def numbers(self, slot: int, code: str) -> list[Any]:
        """Read a vector of numbers."""
        raw = self.raw(slot, _SIZES[code])
        return list(struct.unpack(f"<{len(raw) // _SIZES[code]}{code}", raw))

    def raw(self, slot: int, item_size: int = 1) -> memoryview:
        """Return the bytes of a vector of items of ``item_size`` bytes each (empty if absent)."""
        position = self.where(slot)
        if not position:
            return self.view[:0]
        return _vector(self.view, self._follow(position), item_size)

    def _follow(self, position: int) -> int:
        offset = scalar(self.view, position, "I")
        if offset == 0:
            raise FlatError(f"the offset at {position} leads nowhere: truncated or damaged")
        return int(position + offset)

    def _targets(self, slot: int) -> Iterator[int]:
        return map(self._follow, self.references(slot))


def _vector(view: memoryview, position: int, item_size: int) -> memoryview:
    count = scalar(view, position, "I")
    start, end = position + 4, position + 4 + count * item_size
    if end > len(view):
        raise FlatError(
            f"a vector at {position} would end at {end}, but the data ends at {len(view)}: "
            "truncated or damaged"
        )
    return view[start:end]


def _text(view: memoryview, position: int) -> str:
    return bytes(_vector(view, position, 1)).decode("utf-8", errors="replace")
