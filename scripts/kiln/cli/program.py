"""Run ``kiln`` and the developers' programs: signals, errors, exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

import click

from kiln.cli.reporters import JsonReporter
from kiln.core.errors import CancelledError, KilnError, OutputClosedError, UsageError
from kiln.core.files import system_guard
from kiln.core.later import finish
from kiln.core.plain_text import plain
from kiln.core.streams import discard_output, flush_output, watch_output

_SHOWN = "\n\t"

#: Seconds that a stopped program spends on removing its containers.
_STOP_PATIENCE = 2.0


def run_command(command: click.Command, name: str) -> NoReturn:
    """Run a command with the process's arguments; see :func:`run`."""
    run(lambda: _invoke(command, name), name)


def run(program: Callable[[], object], name: str) -> NoReturn:
    """Run a program and exit; every failure becomes one message and an exit code.

    Args:
        program: returns the exit code, or ``None`` on success.
        name: the program's name in messages.
    """
    try:
        with _guard():
            code = program()
            flush_output()
    except KilnError as error:
        _fail(error, name)
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set while modules were loaded
            signal.signal(signal.SIGINT, signal.default_int_handler)
        watch_output()
        # Likely failures are reported where they happen; this is for the rest.
        with system_guard():
            try:
                yield
            except SystemExit:
                flush_output()
                raise
    except (KeyboardInterrupt, click.Abort):
        raise CancelledError(
            "Stopped.", "Finished stages are kept; run the command again to go on."
        ) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _invoke(command: click.Command, name: str) -> object:
    if os.environ.get(f"_{name.upper()}_COMPLETE"):  # a shell asks for completions
        command.main(prog_name=name)
    try:
        # Not click's own main(): it ends with code 1 on any broken pipe.
        with command.make_context(name, sys.argv[1:]) as context:
            return command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click >= 8.2: a bare `kiln`
            print(error.format_message(), file=sys.stderr)
            return UsageError.exit_code
        where = error.ctx.command_path if error.ctx else name
        raise UsageError(error.format_message(), f"See `{where} --help`.") from error


def _fail(error: KilnError, name: str) -> NoReturn:
    try:
        if not isinstance(error, OutputClosedError):
            complain(error, name)
        flush_output()
    except (OSError, OutputClosedError):
        discard_output()
    if isinstance(error, CancelledError | OutputClosedError):
        # A thread in an image build would keep the interpreter waiting; closing its connection
        # makes the engine stop that build.
        finish(_STOP_PATIENCE)
        os._exit(error.exit_code)
    sys.exit(error.exit_code)


def complain(error: KilnError, name: str) -> None:
    """Print an error and its remedy; as a JSON event with ``--json``."""
    if "--json" in sys.argv:
        JsonReporter().event(
            "error",
            kind=error.kind,
            message=error.message,
            remedy=error.remedy,
            exit_code=error.exit_code,
        )
        return
    # Its text may come from an untrusted file.
    print(f"{name}: {plain(error.message, keep=_SHOWN)}", file=sys.stderr)
    if error.remedy:
        print(f"{' ' * len(name)}  {plain(error.remedy, keep=_SHOWN)}", file=sys.stderr)
