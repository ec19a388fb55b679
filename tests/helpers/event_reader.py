"""Read what a running ``kiln … --json`` says, as it comes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from typing import Any


class EventReader:
    """The events of a process, and its standard error, read by threads until both end.

    Attributes:
        events: those that came so far.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.events: list[dict[str, Any]] = []
        self._process = process
        self._err: list[str] = []
        self._news = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._read, self._read_err)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news, contextlib.suppress(ValueError):  # killed in the middle of a line
                self.events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _read_err(self) -> None:
        assert self._process.stderr is not None
        self._err.append(self._process.stderr.read())

    def wait_for(self, seconds: float, **wanted: Any) -> dict[str, Any] | None:
        """The first event with these fields; None when the end, or the time, came before it."""

        def fitting() -> dict[str, Any] | None:
            for event in self.events:
                if all(event.get(name) == value for name, value in wanted.items()):
                    return event
            return None

        with self._news:
            self._news.wait_for(lambda: self._closed or fitting() is not None, seconds)
            return fitting()

    def finish(self) -> str:
        """Read the rest of a process that has ended; what it wrote to standard error."""
        for thread in self._threads:
            thread.join(10)
        return "".join(self._err)
