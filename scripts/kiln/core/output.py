"""Print text for people: tables, and characters that the terminal may lack."""

from __future__ import annotations

import io
import sys


def tolerant_output() -> None:
    """Make standard output escape characters that its encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Format a plain text table, columns padded with spaces.

    >>> print(table(["a", "b"], [["xx", "y"]]))
    a   b
    xx  y
    """
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join(lines)
