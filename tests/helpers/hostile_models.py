"""Small ``.tflite`` files that would cost much, written byte by byte.

FlatBuffers' own builder cannot share what these share.
"""

from __future__ import annotations

import struct


class Buffer:
    """A FlatBuffer that is written from its start: what refers comes before what is referred to."""

    SIZES = {"B": 1, "I": 4, "@": 4}  # noqa: RUF012

    def __init__(self) -> None:
        self.data = bytearray(8)
        self.data[4:8] = b"TFL3"

    def table(self, fields: dict[int, tuple[str, int]]) -> tuple[int, dict[int, int]]:
        """A table of numbers, and of references (``@``) to be set later: its place, its fields'."""
        self._align()
        slots = max(fields, default=-1) + 1
        offsets, size = [0] * slots, 4
        for slot, (code, _) in fields.items():
            size += -size % self.SIZES[code]
            offsets[slot] = size
            size += self.SIZES[code]
        vtable = len(self.data)
        self.data += struct.pack(f"<HH{slots}H", 4 + 2 * slots, size, *offsets)
        self._align()
        place = len(self.data)
        self.data += struct.pack("<i", place - vtable) + bytes(size - 4)
        for slot, (code, value) in fields.items():
            at = place + offsets[slot]
            self.data[at : at + self.SIZES[code]] = struct.pack("<" + code.replace("@", "I"), value)
        return place, {slot: place + offsets[slot] for slot in fields}

    def vector(self, at: int, content: bytes, count: int) -> None:
        """A vector that the field at ``at`` refers to."""
        self._align()
        self.refer(at, len(self.data))
        self.data += struct.pack("<I", count) + content

    def tables(self, at: int, count: int, fields: dict[int, tuple[str, int]]) -> dict[int, int]:
        """A vector of ``count`` references to one and the same table; the table's fields."""
        self._align()
        self.refer(at, len(self.data))
        start = len(self.data) + 4
        self.data += struct.pack("<I", count) + bytes(4 * count)
        place, found = self.table(fields)
        self.data[start : start + 4 * count] = struct.pack(
            f"<{count}I", *(place - start - 4 * number for number in range(count))
        )
        return found

    def refer(self, at: int, target: int) -> None:
        self.data[at : at + 4] = struct.pack("<I", target - at)

    def _align(self) -> None:
        self.data += bytes(-len(self.data) % 8)


def model(
    *,
    graphs: int = 1,
    tensors: int = 1,
    operators: int = 1,
    buffers: int = 1,
    inputs: int = 1,
    rank: int = 2,
    content: int = 0,
    options: int = 0,
    name: bytes = b"n",
) -> bytes:
    """A model that says it has so many of each, all of them the same one."""
    made = Buffer()
    place, top = made.table({0: ("I", 3), 1: ("@", 0), 2: ("@", 0), 4: ("@", 0)})
    made.refer(0, place)
    made.tables(top[1], 1, {0: ("B", 32)})  # CUSTOM
    buffer = made.tables(top[4], buffers, {0: ("@", 0)})
    made.vector(buffer[0], bytes(content), content)
    graph = made.tables(top[2], graphs, {0: ("@", 0), 1: ("@", 0), 2: ("@", 0), 3: ("@", 0)})
    tensor = made.tables(graph[0], tensors, {0: ("@", 0), 3: ("@", 0)})
    made.vector(tensor[0], struct.pack("<i", 2**30) * rank, rank)
    made.vector(tensor[3], name, len(name))
    made.vector(graph[1], bytes(4), 1)
    made.vector(graph[2], bytes(4), 1)
    operator = made.tables(
        graph[3], operators, {0: ("I", 0), 1: ("@", 0), 2: ("@", 0), 5: ("@", 0)}
    )
    made.vector(operator[1], bytes(4 * inputs), inputs)
    made.vector(operator[2], bytes(4), 1)
    made.vector(operator[5], bytes(options), options)
    return bytes(made.data)


HOSTILE = {
    "operators": model(operators=1_000_000),
    "tensors": model(tensors=1_000_000),
    "graphs": model(graphs=1_000_000),
    "buffers": model(buffers=1_000_000),
    "graphs times operators": model(graphs=1_000, operators=1_000),
    "exabytes": model(graphs=50_000, operators=50_000, tensors=50_000, inputs=50_000),
    "inputs": model(operators=30_000, inputs=5_000),
    "names": model(tensors=100_000, name=b"n" * 1_000_000),
    "options": model(operators=100_000, options=1_000_000),
    "buffers of one content": model(buffers=100_000, content=1_000_000),
    "tensors of one buffer": model(tensors=100_000, content=1_000_000),
    "dimensions": model(rank=500_000),
}
