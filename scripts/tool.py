"""What the programs beside kiln share: they start and end like ``kiln``, and write tables."""

from __future__ import annotations

import datetime
import os
import platform
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from kiln.core.errors import CancelledError, KilnError, UsageError
from kiln.core.files import system_guard, write_atomic
from kiln.core.machine import cpu_name
from kiln.core.ui import JsonReporter


def run(command: click.Command, name: str) -> None:
    """Run a command; every failure becomes one message and its own exit code.

    Args:
        name: what the message begins with.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    error: KilnError
    try:
        with system_guard():
            command.main(prog_name=name, standalone_mode=False)
        return
    except KilnError as failure:
        error = failure
    except click.UsageError as failure:
        error = UsageError(failure.format_message(), "See --help.")
    except (KeyboardInterrupt, click.Abort):
        error = CancelledError("Stopped.")
    sys.exit(complain(error, name))


END = "<!-- end of table -->"
"""What stands below a table that a program writes into a document."""


def begin_mark(target: str) -> str:
    """What stands above the table that ``make TARGET`` writes into a document."""
    return f"<!-- table: `make {target}` writes it -->"


def write_table(path: Path, target: str, text: str) -> None:
    """Put a table into a document, between its two marks.

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
    """When, where and how fast a table was made: the beginning of the sentence below it."""
    when = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    host = f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores"
    return f"Made on {when} ({host}) in {seconds / 60:.0f} minutes"


def complain(error: KilnError, name: str) -> int:
    """Say what failed and what to do, as a JSON event where that was asked for; the exit code."""
    if "--json" in sys.argv:
        about = {"kind": error.kind, "message": error.message, "remedy": error.remedy}
        JsonReporter().event("error", exit_code=error.exit_code, **about)
    else:
        print(f"{name}: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"{' ' * len(name)}  {error.remedy}", file=sys.stderr)
    return error.exit_code
