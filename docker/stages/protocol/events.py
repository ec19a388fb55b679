"""Write JSON-lines events to the process's real standard output.

Libraries print to standard output (and C++ code writes to descriptor 1 behind Python's back),
so :func:`claim_stdout` keeps the real one for events and points descriptor 1 at standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, TextIO


def claim_stdout() -> int:
    """Keep a duplicate of descriptor 1 for events and send everything else to descriptor 2.

    Returns:
        The duplicate: an open descriptor of the real standard output.
    """
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    return real


def claim_stdin() -> TextIO:
    """Keep the real standard input for commands, and leave an empty one to stages."""
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return commands


def event_line(event: str, stage: str, **fields: Any) -> bytes:
    """Return ``{"event": event, "stage": stage, **fields}`` and a newline."""
    line = json.dumps({"event": event, "stage": stage, **fields}, allow_nan=False) + "\n"
    return line.encode("utf-8")


class EventStream:
    """Writes one JSON object a line to a descriptor; safe to call from several threads."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, event: str, stage: str, **fields: Any) -> None:
        """Write the event's :func:`event_line`."""
        self.forward(event_line(event, stage, **fields))

    def forward(self, data: bytes) -> None:
        """Write a line of another process's stream."""
        with self._lock:
            while data:
                data = data[os.write(self.descriptor, data) :]


class Emitter:
    """The ``emit`` of a running stage: sends events with the stage's id."""

    def __init__(self, stream: EventStream, stage_id: str) -> None:
        self._stream = stream
        self._stage_id = stage_id

    def progress(self, done: int, total: int, message: str = "") -> None:
        """Report that ``done`` of ``total`` steps are finished; ``message`` is the current work."""
        self._stream.send(
            "progress", self._stage_id, done=int(done), total=int(total), message=message
        )

    def warning(self, message: str) -> None:
        """Report something the user should know that does not stop the stage."""
        self._stream.send("warning", self._stage_id, message=message)
