"""Write a table into a document, between two marks, with date and machine."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.core.files import write_atomic
from kiln.core.machine import cpu_name

END = "<!-- end of table -->"
"""Mark below a table that a program writes into a document."""


def begin_mark(target: str) -> str:
    """Return the mark above the table that ``make TARGET`` writes into a document."""
    return f"<!-- table: `make {target}` writes it -->"


def write_table(path: Path, target: str, text: str) -> None:
    """Write a table into a document, between its two marks.

    Raises:
        UsageError: the document has no such marks.
    """
    begin = begin_mark(target)
    old = path.read_text("utf-8") if path.exists() else ""
    before, mark, rest = old.partition(begin)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise UsageError(f"{path} has no place for the table.", f"Write {begin} and {END} into it.")
    write_atomic(path, f"{before}{begin}\n{text}\n{END}{after}".encode())


def made_here(seconds: float) -> str:
    """Describe date, machine and duration, as the beginning of the sentence below a table."""
    return f"Made on {today()} ({here()}) in {seconds / 60:.0f} minutes"


def here() -> str:
    """Name this machine's architecture, processor and number of cores."""
    return f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores"


def today() -> str:
    """Return the date in UTC, as it stands in tables."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
