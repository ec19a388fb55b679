"""How the scripts beside kiln start and end: like ``kiln`` itself."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from kiln.cli.reporters import JsonReporter
from kiln.core.errors import CancelledError, KilnError, UsageError
from kiln.core.files import system_guard


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
    """Say what failed and what to do, as a JSON event where that was asked for; the exit code."""
    if "--json" in sys.argv:
        about = {"kind": error.kind, "message": error.message, "remedy": error.remedy}
        JsonReporter().event("error", exit_code=error.exit_code, **about)
    else:
        print(f"{name}: {error.message}", file=sys.stderr)
        if error.remedy:
            print(f"{' ' * len(name)}  {error.remedy}", file=sys.stderr)
    return error.exit_code
