"""Read a checkpoint's ``.index`` without TensorFlow: how long each of its data files must be.

The file is a sorted string table, the format of LevelDB: blocks of keys and values, found through
an index block, which the last 48 bytes locate. A key is a variable's name, and its value a
``BundleEntryProto`` with the place of its numbers in one of the data files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

#: The last eight bytes of every sorted string table.
MAGIC = bytes.fromhex("57fb808b247547db")

_FOOTER = 48  # bytes: two places of blocks, padded to 40, and the magic number
_MAX_BYTES = 64 << 20  # indexes of detectors have 20 to 200 kB
_PLAIN = 0  # type of a block without compression, the only one that TensorFlow writes
_SHARD_ID, _OFFSET, _SIZE = 3, 4, 5  # fields of BundleEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protobuf


def is_table(index: Path) -> bool:
    """Whether a file ends as an ``.index`` does.

    Raises:
        OSError: it cannot be read.
    """
    with index.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(MAGIC)))
        return size >= _FOOTER and file.read() == MAGIC


def least_sizes(index: Path) -> dict[int, int]:
    """Return the least size in bytes of each data file, by its number.

    Empty where the table cannot be followed: TensorFlow then says what is wrong with it.

    Raises:
        OSError: it cannot be read.
    """
    with index.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    sizes: dict[int, int] = {}
    if len(data) > _MAX_BYTES:
        return sizes
    try:
        for value in _variables(data):
            fields = dict(_numbers(value))
            shard = fields.get(_SHARD_ID, 0)
            end = fields.get(_OFFSET, 0) + fields.get(_SIZE, 0)
            sizes[shard] = max(sizes.get(shard, 0), end)
    except (ValueError, IndexError, struct.error):
        return {}
    return sizes


def _variables(data: bytes) -> Iterator[bytes]:
    """Yield the values of a table, but for the header, whose key is empty."""
    place = _varint(data, _varint(data, len(data) - _FOOTER)[1])[1]  # behind the first place
    left = len(data)
    for _, where in _entries(_block(data, place, data)):
        block = _block(where, 0, data)
        left -= len(block)
        if left < 0:
            raise ValueError("its blocks overlap")
        yield from (value for key, value in _entries(block) if key)


def _block(handle: bytes, at: int, data: bytes) -> bytes:
    """Return the block of ``data`` whose place stands in ``handle`` at ``at``."""
    offset, at = _varint(handle, at)
    size, _ = _varint(handle, at)
    if offset + size >= len(data) or data[offset + size] != _PLAIN:
        raise ValueError("no plain block")
    return data[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values; of a key, a block holds only what differs from the key before."""
    (restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (restarts + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _numbers(message: bytes) -> Iterator[tuple[int, int]]:
    """Yield the whole numbers among a message's fields: field number, value."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif wire == _BYTES:
            length, at = _varint(message, at)
            at += length
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError("no field")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at ``at``, and the place after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no number")
