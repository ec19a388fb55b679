"""Send results to a cache beside the work."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

#: What waits to be sent at most: only names wait, contents are read from the store in time.
MOST_WAITING = 1000


class Uploads:
    """Jobs that one thread does in order, beside the work."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue(MOST_WAITING)
        self._ended = threading.Condition()
        self._waiting = 0
        self._thread: threading.Thread | None = None

    def add(self, job: Callable[[], None]) -> bool:
        """Add a job, whose exceptions are ignored; return whether there was room for it."""
        with self._ended:
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                return False
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
                self._thread.start()
        return True

    def finish(self, patience: float) -> int:
        """Wait until all jobs are done, at most ``patience`` seconds; return how many are not."""
        until = time.monotonic() + patience
        with self._ended:
            while self._waiting and (left := until - time.monotonic()) > 0:
                self._ended.wait(left)
            return self._waiting

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            with contextlib.suppress(Exception):
                job()
            with self._ended:
                self._waiting -= 1
                self._ended.notify_all()
