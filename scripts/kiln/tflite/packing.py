"""Describe the zip archive behind a ``.tflite`` file's FlatBuffer, even a damaged one.

:func:`stages.tflite.tflite_model.packed_files` gives names and contents and refuses what devices
could not read. This module also reports dates, checksums, and what is wrong with the archive.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

_MOST_FILES = 1_000  # detectors have one


@dataclass(frozen=True)
class PackedFile:
    """One entry of the archive.

    Attributes:
        name: as the archive spells it.
        size: in bytes, unpacked.
        date: "YYYY-MM-DD hh:mm:ss", local time where it was packed.
        crc: the CRC-32 that the archive states, eight hexadecimal digits.
        stored: not compressed, as the readers on devices need it.
        content: ``None`` where it was not read: it is compressed, or has a ``problem``.
        problem: what is wrong with the entry, or "".
    """

    name: str
    size: int
    date: str
    crc: str
    stored: bool
    content: bytes | None
    problem: str


@dataclass(frozen=True)
class Packing:
    """What follows the FlatBuffer.

    Attributes:
        start: where the archive starts, in bytes; the size of the file where there is none.
        files: in the archive's order.
        problem: why the archive cannot be read, or "".
    """

    start: int
    files: tuple[PackedFile, ...]
    problem: str


def read(data: bytes) -> Packing:
    """Describe the archive behind ``data``'s FlatBuffer; never raises."""
    nothing = len(data)
    try:
        if not zipfile.is_zipfile(io.BytesIO(data)):
            return Packing(nothing, (), "")
        # Each entry of the directory begins so. zipfile would make an object for each of them.
        if data.count(b"PK\1\2") > _MOST_FILES:
            return Packing(nothing, (), f"there are more than {_MOST_FILES:,} of them")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            # Entries that share their bytes could make a small file fill the memory.
            if sum(entry.file_size for entry in entries) > 2 * len(data) + 1_000_000:
                return Packing(nothing, (), "its entries claim more bytes than the file has")
            start = min((entry.header_offset for entry in entries), default=nothing)
            files = tuple(_entry(archive, entry) for entry in entries)
    except _BAD as error:
        return Packing(nothing, (), _words(error))
    if not 0 <= start <= nothing:
        return Packing(nothing, files, "its entries start outside the file")
    return Packing(start, files, "")


_BAD = (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError, OverflowError)
"""What zipfile raises for damaged archives. RuntimeError: encryption, unknown versions."""


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> PackedFile:
    content, problem = None, ""
    stored = entry.compress_type == zipfile.ZIP_STORED
    if stored:
        try:
            content = archive.read(entry)
        except _BAD as error:
            problem = _words(error)
    else:
        problem = "compressed: readers on devices only take stored entries"
    year, month, day, hour, minute, second = entry.date_time
    date = f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
    return PackedFile(
        entry.filename, entry.file_size, date, f"{entry.CRC:08x}", stored, content, problem
    )


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
