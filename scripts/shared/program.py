"""Start and end a developer's program the way ``kiln`` does."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from kiln.core.errors import CancelledError, KilnError, UsageError
from kiln.core.files import system_guard
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


def complain(error: KilnError, name: str) -> int:
    """Print an error and its remedy, as a JSON event with ``--json``; the exit code."""
    if "--json" in sys.argv:
        about = {"kind": error.kind, "message": error.message, "remedy": error.remedy}
        JsonReporter().event("error", exit_code=error.exit_code, **about)
    else:
        print(f"{name}: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"{' ' * len(name)}  {error.remedy}", file=sys.stderr)
    return error.exit_code
