"""Call a remote place with deadlines, and leave it aside when it costs more than it gives.

A library's call cannot be stopped from outside. It runs in a daemon thread, and is abandoned when
its time is up: it only writes to places where an abandoned writer does no harm.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from kiln.core.errors import CacheError, DigestMismatchError, KilnError, VerificationError

T = TypeVar("T")
_Answer: TypeAlias = "tuple[T | None, BaseException | None]"

#: Calls at a time. Most of a call is waiting for the other side.
THREADS = 8

#: Failures after which nothing more is asked; so many successes make up for one of them. (Not
#: failures in a row: a cache that is full still answers every other question.)
MOST_FAILURES = 3
_SUCCESSES = 10

#: Seconds of waiting, beyond those of work that results from the cache have saved.
PATIENCE = 60.0

#: Seconds for a call that moves little, and bytes a second that one with content has to reach.
DEADLINE = 10.0
_LEAST_RATE = 500_000

_LOOK = 0.2  # seconds between two looks whether the cache was left aside meanwhile

_REMEDY = "Check KILN_CACHE, the credentials of its backend and the network."
_FULL = {errno.ENOSPC, errno.EDQUOT}


class AbsentError(CacheError):
    """A remote cache has no such object; not a failure of the cache."""


class Calls:
    """Calls to one side (reading or writing) of a remote cache.

    Args:
        place: names the cache in messages.
        on_aside: told once, with a sentence, when nothing more will be asked.
        patience: seconds of waiting that are accepted; None for no end.
        absence: whether a missing object is an answer; else it is a failure.
        deadline: seconds for a small call.
    """

    def __init__(
        self,
        place: str,
        on_aside: Callable[[str], object] = lambda text: None,
        *,
        patience: float | None = PATIENCE,
        absence: bool = True,
        deadline: float = DEADLINE,
    ) -> None:
        self.deadline = deadline
        self._place, self._on_aside, self._patience = place, on_aside, patience
        self._absence = absence
        self._lock = threading.Lock()
        self._aside: CacheError | None = None
        self._failures = 0.0
        self._waiting = 0
        self._since = 0.0
        self._spent = 0.0

    @property
    def aside(self) -> bool:
        """Whether the cache was left aside."""
        return self._aside is not None

    def deadline_for(self, size: int) -> float:
        """Return the seconds for a call that moves ``size`` bytes."""
        return self.deadline + size / _LEAST_RATE

    def one(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Return what ``work`` returns, within ``seconds``.

        Raises:
            AbsentError: it raised FileNotFoundError.
            CacheError: it failed or took too long, or the cache was left aside before.
            KilnError: it raised one, about this machine: no space left, for instance.
        """
        self._check_patience()
        if self._aside is not None:
            raise self._aside
        answer: queue.SimpleQueue[_Answer[T]] = queue.SimpleQueue()

        def body() -> None:
            try:
                answer.put((work(), None))
            except BaseException as error:  # whatever a backend's library raises
                answer.put((None, error))

        limit = self.deadline if seconds is None else seconds
        threading.Thread(target=body, name="cache-call", daemon=True).start()
        value, error = self._wait(answer, limit)
        if error is None:
            self._succeeded()
            return value  # type: ignore[return-value]  # only with an error it is None
        if isinstance(error, FileNotFoundError) and self._absence:
            self._succeeded()
            raise AbsentError(
                f"The cache {self._place}, or what was asked of it, does not exist.", _REMEDY
            )
        if isinstance(error, DigestMismatchError | VerificationError):
            raise self._failed("returned something else than what was stored") from None
        if isinstance(error, KilnError):
            raise error
        raise self._failed(_reason(error)) from None

    def _wait(self, answer: queue.SimpleQueue[_Answer[T]], limit: float) -> _Answer[T]:
        until = time.monotonic() + limit
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return answer.get(timeout=min(left, _LOOK))
            if self._aside is not None:  # by calls beside this one
                raise self._aside
        raise self._failed(f"did not answer within {limit:.3g} s")

    def each(
        self, works: Sequence[Callable[[], T]], seconds: Sequence[float] | None = None
    ) -> list[T | CacheError]:
        """Return what each of ``works`` returns, or its error; several run at a time.

        Raises:
            KilnError: as :meth:`one`, but for a CacheError.
        """
        if not works:
            return []
        limits = seconds or [self.deadline] * len(works)

        def attempt(work: Callable[[], T], limit: float) -> T | CacheError:
            try:
                return self.one(work, limit)
            except CacheError as error:
                return error

        # (Its threads always end: each call has a deadline.)
        with ThreadPoolExecutor(min(THREADS, len(works)), thread_name_prefix="cache") as pool:
            return list(pool.map(attempt, works, limits))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the body against the patience, once for all threads in it."""
        with self._lock:
            if self._waiting == 0:
                self._since = time.monotonic()
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                if self._waiting == 0:
                    self._spent += time.monotonic() - self._since

    def earn(self, seconds: float) -> None:
        """Count seconds of work that a result from the cache has saved."""
        with self._lock:
            self._spent -= seconds

    def _check_patience(self) -> None:
        if self._patience is None or self._aside is not None:
            return
        with self._lock:
            running = time.monotonic() - self._since if self._waiting else 0.0
            late = self._spent + running > self._patience
        if late:
            self._leave(f"cost {self._patience:.0f} s of waiting more than it saved")

    def _succeeded(self) -> None:
        with self._lock:
            self._failures = max(0.0, self._failures - 1 / _SUCCESSES)

    def _failed(self, why: str) -> CacheError:
        error = CacheError(f"The cache {self._place} {why}.", _REMEDY)
        with self._lock:
            self._failures += 1
            # (Concurrent failures may have a few successes between them.)
            enough = self._failures > MOST_FAILURES - 1
        if enough:
            self._leave(why)
        return error

    def _leave(self, why: str) -> None:
        with self._lock:
            if self._aside is not None:
                return
            self._aside = CacheError(f"The cache {self._place} {why}.", _REMEDY)
        self._on_aside(f"The cache {self._place} {why}")


def _reason(error: BaseException) -> str:
    """Say what a library's error means. Its own text may hold credentials, and is not shown."""
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return "refused access"
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    if isinstance(error, ConnectionError) or "Connect" in type(error).__name__:
        return "cannot be reached"
    if isinstance(error, OSError) and error.errno in _FULL:
        return "is full"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return "is read-only"
    return f"failed ({type(error).__name__})"
