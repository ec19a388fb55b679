"""Small ``.tflite`` files that would cost much: each is refused in its own words, at once.

They are written here byte by byte: FlatBuffers' own builder cannot share what these share.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tflite_files import fixture

from kiln.core.errors import UnsupportedModelError
from kiln.tflite import flexbuffer, packing, pairing
from kiln.tflite.diff import compare
from kiln.tflite.inspect import inspect

#: Seconds of processor time, on any machine; what is mended here took 40 and more, or gigabytes.
MOST = 15.0


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < MOST


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


def test_the_generator_writes_models() -> None:
    found = inspect(model(tensors=5, operators=3, content=16))
    assert len(found.file.graphs[0].tensors) == 5
    assert [op.name for op in found.file.graphs[0].operators] == ["CUSTOM"] * 3
    assert not found.file.warnings


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


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_shared_without_end_is_refused(name: str) -> None:
    data = HOSTILE[name]
    assert len(data) < 6_000_000
    for use in (lambda: inspect(data), lambda: compare(fixture("toy_ssd"), data)):
        with pytest.raises(UnsupportedModelError, match=r"over and over|dimensions"):
            use()


def test_memory_stays_where_the_file_s_size_suggests(tmp_path: Path) -> None:
    (tmp_path / "hostile.tflite").write_bytes(HOSTILE["options"])
    code = (
        "import sys; from kiln.cli.main import main; from peak_memory import peak_memory\n"
        "sys.argv = ['kiln', 'inspect', "
        f"{str(tmp_path / 'hostile.tflite')!r}]\n"
        "try: main()\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, peak_memory())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    exit_code, used = run.stdout.split()[-2:]
    assert exit_code == "14" and int(used) < 300 << 20


def zipped(entries: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(entries):
            archive.writestr(str(number), b"")
    return fixture("toy_ssd") + out.getvalue()


def test_an_archive_of_many_files_is_not_opened() -> None:
    assert len(packing.read(zipped(900)).files) == 900
    found = packing.read(zipped(20_000))
    assert not found.files and "more than 1,000" in found.problem


def test_entries_that_share_their_bytes() -> None:
    """A thousand entries of the directory, all of them of one file of a megabyte."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", bytes(1_000_000))
    data = out.getvalue()
    entry = data[data.index(b"PK\1\2") : data.index(b"PK\5\6")]
    end = bytearray(data[data.index(b"PK\5\6") :])
    end[8:16] = struct.pack("<HHI", 999, 999, 999 * len(entry))
    found = packing.read(data[: data.index(b"PK\1\2")] + entry * 999 + bytes(end))
    assert not found.files and "more bytes" in found.problem


def test_flexbuffers_whose_texts_are_one() -> None:
    """A vector of many references to one long text."""
    text, count = b"x" * 60_000, 20_000
    data = bytearray(struct.pack("<I", len(text)) + text + b"\0" + bytes(3))
    data += struct.pack("<I", count)
    start = len(data)
    data += b"".join(struct.pack("<I", start + 4 * n - 4) for n in range(count))
    data += bytes([(5 << 2) | 2]) * count
    root = len(data)
    data += struct.pack("<I", root - start) + bytes([(10 << 2) | 2, 4])
    with pytest.raises(flexbuffer.FlexError, match="over and over"):
        flexbuffer.decode(bytes(data))


def labelled(labels: bytes) -> bytes:
    flat = fixture("toy_ssd_annotated")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("labelmap.txt", labels)
    return flat[: flat.index(b"PK\3\4")] + out.getvalue()


MANY = {
    "empty": b"\n" * 3_000_000,
    "equal": b"x\n" * 1_500_000,
    "different": "".join(f"{number}\n" for number in range(400_000)).encode(),
}


@pytest.mark.parametrize("name", MANY)
def test_label_files_of_millions_of_lines(name: str) -> None:
    """As ``kiln diff --all`` shows them, and as it writes them for programs."""
    found = compare(fixture("toy_ssd_annotated"), labelled(MANY[name]))
    lines = MANY[name].count(b"\n")
    (section,) = [part for part in found.sections if part.name == "labels"]
    assert section.title == f"labels: {lines:,} lines of {lines} differ"
    assert len(section.items) <= 10_002
    assert len(found.text(all_items=True)) < 1_000_000
    told = found.as_json(all_items=True)["sections"]
    assert sum(part["count"] for part in told if part["name"] == "labels") == len(section.items)


def test_lines_that_differ_alike_are_told_together() -> None:
    one, other = labelled(b"a\nb\nb\nb\nc\n"), labelled(b"a\nx\nx\nx\nd\n")
    (section,) = [part for part in compare(one, other).sections if part.name == "labels"]
    told = ["lines 2 to 4: 'b' -> 'x'", "line 5: 'c' -> 'd'"]
    assert [item.text for item in section.items] == told
    assert section.title == "labels: 4 lines of 5 differ"


def test_a_label_file_that_is_far_too_large() -> None:
    found = inspect(labelled(b"ab\n" * 5_500_000))
    assert found.file.labels is None
    assert any("16,500,000 bytes" in text for text in found.warnings)


def test_sequences_that_difflib_takes_minutes_for() -> None:
    """Runs of one that match in single steps, in many graphs; real ones are aligned as before."""
    one = ["x", *["0"] * 1_000, "y"]
    other = ["z", *(name for n in range(500) for name in ("0", f"s{n}")), "w"]
    effort = pairing.Effort()
    for _ in range(20):
        assert pairing.align(one, other, effort) == [(False, (0, 1_002), (0, 1_002))]
    shorter = pairing.align(one[:60], other[:60])
    assert sum(same for same, _, _ in shorter) == 30
