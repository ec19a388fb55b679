"""Add a metadata entry to a FlatBuffer without writing the rest anew.

A FlatBuffer's offsets lead forward only. So a new root table goes *before* the old data and refers
to the parts of the old root; the old data follow unchanged, as a whole. Weights stay aligned, and
everything in them that a compiler laid out stays where it is. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from stages.tflite import flatbuffer, tflite_model

_FIELDS = 8
"""Fields of the schema's root table: version, operator codes, graphs, description, buffers,
metadata's old form, metadata, signatures."""

_VERSION, _BUFFERS, _METADATA = 0, 4, 6
_NAME, _BUFFER = 0, 1  # fields of a metadata entry
_ALIGNMENT = 64  # of the old data: a multiple of what any part of it asks for


def added(data: flatbuffer.Bytes, name: str, content: bytes) -> bytes:
    """Return ``data`` with one more metadata entry.

    Args:
        data: a TFLite model's FlatBuffer without anything behind it.
        name: of the entry; there must be none of that name.
        content: its bytes.

    Raises:
        FlatError: the data is damaged; has such an entry; or keeps weights behind the FlatBuffer,
            or has fields that this schema does not know.
    """
    root = flatbuffer.root(data, tflite_model.IDENTIFIER, "TFLite model")
    if any(table.text(0) == name for table in root.tables(_METADATA)):
        raise flatbuffer.FlatError(f"there is a metadata entry {name!r} already")
    if any(table.number(1, "Q") > 1 for table in root.tables(_BUFFERS)):
        raise flatbuffer.FlatError("it keeps weights behind its FlatBuffer")
    if any(root.where(slot) for slot in range(_FIELDS, _FIELDS + 8)):
        raise flatbuffer.FlatError("its form is newer than this kiln knows")
    buffers = [table.position for table in root.tables(_BUFFERS)]
    entries = [table.position for table in root.tables(_METADATA)]
    old = {slot: _target(root, slot) for slot in range(1, _FIELDS)}
    front = _Front()
    front.root(root.number(_VERSION, "I"), old, buffers, entries, name.encode("utf-8"), content)
    return front.joined(bytes(data))


def _target(root: flatbuffer.Table, slot: int) -> int:
    """Return the position that a field of the root refers to; -1 where it is absent."""
    position = root.where(slot)
    return position + int(flatbuffer.scalar(root.view, position, "I")) if position else -1


class _Front:
    """What stands before the old data; references into them are filled in at the end."""

    def __init__(self) -> None:
        self._data = bytearray(8)
        self._data[4:8] = tflite_model.IDENTIFIER
        self._into_old: dict[int, int] = {}  # position of a reference -> position in the old data

    def root(
        self,
        version: int,
        old: dict[int, int],
        buffers: Sequence[int],
        entries: Sequence[int],
        name: bytes,
        content: bytes,
    ) -> None:
        present = [slot for slot in range(_FIELDS) if old.get(slot, 0) >= 0]
        present = sorted({*present, _BUFFERS, _METADATA})
        table = self._table(present, _FIELDS)
        self._refer(0, table.start)
        self._put(table.fields[_VERSION], version)
        for slot in present:
            if slot not in (_VERSION, _BUFFERS, _METADATA):
                self._into_old[table.fields[slot]] = old[slot]
        new_buffer = self._vector_of(table.fields[_BUFFERS], buffers)
        new_entry = self._vector_of(table.fields[_METADATA], entries)
        entry = self._table([_NAME, _BUFFER], 2)
        self._refer(new_entry, entry.start)
        self._put(entry.fields[_BUFFER], len(buffers))
        self._bytes(entry.fields[_NAME], name + b"\0", len(name), 4)
        buffer = self._table([0], 1)
        self._refer(new_buffer, buffer.start)
        self._bytes(buffer.fields[0], content, len(content), 16)

    def joined(self, data: bytes) -> bytes:
        self._align(_ALIGNMENT)
        start = len(self._data)
        for position, target in self._into_old.items():
            self._put(position, start + target - position)
        return bytes(self._data) + data

    def _table(self, fields: Sequence[int], slots: int) -> _Place:
        """Append a table and its vtable; each of its fields has four bytes."""
        self._align(4)
        vtable = len(self._data)
        places = {slot: 4 + 4 * index for index, slot in enumerate(fields)}
        size = 4 + 4 * len(fields)
        self._data += struct.pack("<HH", 4 + 2 * slots, size)
        self._data += struct.pack(f"<{slots}H", *(places.get(slot, 0) for slot in range(slots)))
        self._align(4)
        start = len(self._data)
        self._data += struct.pack("<i", start - vtable) + bytes(size - 4)
        return _Place(start, {slot: start + place for slot, place in places.items()})

    def _vector_of(self, reference: int, old: Sequence[int]) -> int:
        """Append a vector of old tables and one new one; return the new one's reference."""
        self._align(4)
        self._refer(reference, len(self._data))
        self._data += struct.pack("<I", len(old) + 1)
        for position in old:
            self._into_old[len(self._data)] = position
            self._data += bytes(4)
        self._data += bytes(4)
        return len(self._data) - 4

    def _bytes(self, reference: int, content: bytes, count: int, alignment: int) -> None:
        self._data += bytes(-(len(self._data) + 4) % alignment)  # of the content, behind its length
        self._refer(reference, len(self._data))
        self._data += struct.pack("<I", count) + content

    def _refer(self, reference: int, target: int) -> None:
        self._put(reference, target - reference)

    def _put(self, position: int, value: int) -> None:
        struct.pack_into("<I", self._data, position, value)

    def _align(self, alignment: int) -> None:
        self._data += bytes(-len(self._data) % alignment)


class _Place:
    """A table in :class:`_Front`: its start, and the positions of its fields by slot."""

    def __init__(self, start: int, fields: dict[int, int]) -> None:
        self.start = start
        self.fields = fields
