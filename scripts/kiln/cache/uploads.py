"""Send results to a cache beside the work."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

#: What waits to be sent at most: only names wait, contents are read from the store in time.
MOST_WAITING = 1000

#: Results sent at a time. Most of the time is waiting for the other side.
THREADS = 3

Job = Callable[[], None]


class Uploads:
    """Jobs that a few threads do beside the work; exceptions of jobs are ignored."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[int, Job]] = queue.Queue(MOST_WAITING)
        self._changed = threading.Condition()
        self._next = 0
        self._open: set[int] = set()  # numbers of jobs that have not ended
        self._threads: list[threading.Thread] = []

    def add(self, job: Job) -> bool:
        """Add a job; return whether there was room for it."""
        with self._changed:
            try:
                self._jobs.put_nowait((self._next, job))
            except queue.Full:
                return False
            self._open.add(self._next)
            self._next += 1
            if len(self._threads) < min(THREADS, len(self._open)):
                thread = threading.Thread(target=self._work, name="uploads", daemon=True)
                self._threads.append(thread)
                thread.start()
        return True

    def add_after(self, job: Job) -> bool:
        """Add a job that begins when all that were added before it have ended."""
        with self._changed:
            before = set(self._open)

        def later() -> None:
            # Jobs begin in order, so those it waits for are under way in the other threads.
            with self._changed:
                self._changed.wait_for(lambda: not before & self._open)
            job()

        return self.add(later)

    def finish(self, patience: float) -> int:
        """Wait until all jobs are done, at most ``patience`` seconds; return how many are not."""
        until = time.monotonic() + patience
        with self._changed:
            while self._open and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return len(self._open)

    def _work(self) -> None:
        while True:
            number, job = self._jobs.get()
            with contextlib.suppress(Exception):
                job()
            with self._changed:
                self._open.discard(number)
                self._changed.notify_all()
