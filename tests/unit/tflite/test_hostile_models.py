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
from hostile_models import HOSTILE, model
from patience import PATIENCE
from tflite_files import fixture

from kiln.core.errors import UnsupportedModelError
from kiln.tflite import flexbuffer, packing, pairing
from kiln.tflite.diff import compare
from kiln.tflite.inspect import inspect

#: Seconds of processor time, on any machine: 8 are seen on a busy one. What is mended here took 40
#: and more on an idle one, or gigabytes.
MOST = 30.0


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < MOST


def test_the_generator_writes_models() -> None:
    found = inspect(model(tensors=5, operators=3, content=16))
    assert len(found.file.graphs[0].tensors) == 5
    assert [op.name for op in found.file.graphs[0].operators] == ["CUSTOM"] * 3
    assert not found.file.warnings


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
        timeout=PATIENCE,
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
