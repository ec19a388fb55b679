"""Standard output and standard error of a program: what becomes of a write that nobody reads."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from kiln.core.errors import OutputClosedError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NAMES = ("stdout", "stderr")


class _Watched(io.FileIO):
    """A stream that says which write it was that nobody reads.

    A ``BrokenPipeError`` could come from any socket, and too much handles an ``OSError`` on its
    way up: a download is tried again, click ends with code 1.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise OutputClosedError("Nobody reads the output any more.") from None


def watch_output() -> None:
    """Let writes to standard output and error that nobody reads end in ``OutputClosedError``.

    Streams that the process was started without lead to nowhere from here on, so that no file
    that is opened later takes their place. Those that a test put in their place stay as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    for number, name in enumerate(_NAMES, start=1):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _watched(stream, number))


def _watched(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    raw = _Watched(number, "w", closefd=False)
    unbuffered = isinstance(stream.buffer, io.RawIOBase)  # python -u
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def flush_output() -> None:
    """Write what is still buffered.

    Raises:
        OutputClosedError: nobody reads it.
        OSError: it cannot be written.
    """
    for name in _NAMES:
        getattr(sys, name).flush()


def discard_output() -> None:
    """Let what is still buffered, and all that follows, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number, _ in enumerate(_NAMES, start=1):
        os.dup2(nowhere, number)
    os.close(nowhere)
