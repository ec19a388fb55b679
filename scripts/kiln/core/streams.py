"""Handle closed standard output and standard error."""

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
    """A stream that reports a closed pipe as an ``OutputClosedError``.

    A ``BrokenPipeError`` could come from any socket, and callers would handle it as any
    ``OSError``: a download would be retried, click would exit with code 1.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise OutputClosedError("The reader of the output has closed it.") from None


def watch_output() -> None:
    """Make writes to closed standard output or error raise ``OutputClosedError``.

    Streams that were closed when the process started lead to the null device, so that no file
    opened later takes their number. Replacements by a test are left unchanged.
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
    """Flush standard output and error.

    Raises:
        OutputClosedError: the reader has closed it.
        OSError: it cannot be written.
    """
    for name in _NAMES:
        getattr(sys, name).flush()


def discard_output() -> None:
    """Discard buffered output and everything written later."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number, _ in enumerate(_NAMES, start=1):
        os.dup2(nowhere, number)
    os.close(nowhere)
