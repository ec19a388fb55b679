"""Deadlines, and when a cache is left aside."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable

import pytest

from kiln.cache.calls import MOST_FAILURES, THREADS, AbsentError, Calls
from kiln.core.errors import CacheError, DigestMismatchError, DiskFullError


class Told:
    """Calls, and what they told when the cache was left aside."""

    def __init__(self, **how: float | bool | None) -> None:
        self.told: list[str] = []
        self.calls = Calls("here", self.told.append, **how)  # type: ignore[arg-type]

    def fails(self, error: BaseException) -> str:
        """What the failure of a call is called."""

        def work() -> None:
            raise error

        with pytest.raises(CacheError) as caught:
            self.calls.one(work)
        return caught.value.message


class NoCredentialsError(Exception):
    """As botocore calls its own."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("secret"), "refused access"),
        (NoCredentialsError("secret"), "refused access"),
        (TimeoutError("secret"), "did not answer in time"),
        (ConnectionRefusedError("secret"), "cannot be reached"),
        (OSError(errno.ENOSPC, "secret"), "is full"),
        (OSError(errno.EROFS, "secret"), "is read-only"),
        (DigestMismatchError("secret"), "something else than what was stored"),
        (RuntimeError("secret"), "failed (RuntimeError)"),
        (MemoryError("secret"), "failed (MemoryError)"),
    ],
)
def test_failures_are_named_without_the_librarys_words(error: Exception, words: str) -> None:
    message = Told().fails(error)
    assert words in message
    assert "secret" not in message


def test_faults_of_this_machine_are_not_the_caches() -> None:
    told = Told()

    def work() -> None:
        raise DiskFullError("No space left here.")

    for _ in range(2 * MOST_FAILURES):
        with pytest.raises(DiskFullError):
            told.calls.one(work)
    assert not told.calls.aside


def test_what_is_not_there_is_an_answer_to_a_reader_only() -> None:
    reading, writing = Told(), Told(absence=False)
    for _ in range(2 * MOST_FAILURES):
        with pytest.raises(AbsentError):
            reading.calls.one(lambda: open("/nonexistent"))  # noqa: PTH123, SIM115
    assert not reading.calls.aside
    for _ in range(MOST_FAILURES):
        assert "does not exist" in writing.fails(FileNotFoundError())
    assert writing.calls.aside


def test_after_some_failures_nothing_is_asked_and_it_is_told_once() -> None:
    told = Told()
    for _ in range(MOST_FAILURES):
        assert not told.calls.aside
        told.fails(ConnectionResetError())
    asked: list[int] = []
    with pytest.raises(CacheError, match="cannot be reached"):
        told.calls.one(lambda: asked.append(1))
    assert asked == []
    assert told.told == ["The cache here cannot be reached"]


def test_successes_make_up_for_failures() -> None:
    told = Told()
    for _ in range(20):
        told.fails(ConnectionResetError())
        for _ in range(10):
            told.calls.one(lambda: None)
    assert not told.calls.aside


def test_a_failure_now_and_then_between_a_few_successes_counts() -> None:
    """As of a full cache: each write fails, questions are answered."""
    told = Told()
    for _ in range(MOST_FAILURES + 2):
        if not told.calls.aside:
            told.fails(OSError(errno.ENOSPC, ""))
            told.calls.each([lambda: None] * 4)
    assert told.calls.aside


def test_calls_that_hang_cost_one_deadline_together() -> None:
    told, release = Told(deadline=0.5), threading.Event()
    start = time.monotonic()
    outcomes = told.calls.each([lambda: release.wait(60)] * (3 * THREADS))
    took = time.monotonic() - start
    release.set()
    assert all(isinstance(outcome, CacheError) for outcome in outcomes)
    assert 0.5 <= took < 0.95
    assert told.told == ["The cache here did not answer within 0.5 s"]


def test_several_are_asked_at_a_time_in_order() -> None:
    told = Told()

    def slow(number: int) -> Callable[[], int]:
        def work() -> int:
            time.sleep(0.3)
            return number

        return work

    start = time.monotonic()
    assert told.calls.each([slow(number) for number in range(THREADS)]) == [*range(THREADS)]
    assert time.monotonic() - start < 0.3 * THREADS / 2


def test_a_cache_that_costs_more_than_it_saves_is_left_aside() -> None:
    told = Told(patience=0.15)
    with told.calls.waiting(), told.calls.waiting():  # two threads: the time counts once
        time.sleep(0.1)
        told.calls.one(lambda: None)
    told.calls.earn(0.4)
    with told.calls.waiting():
        time.sleep(0.2)
        told.calls.one(lambda: None)
        time.sleep(0.4)
        with pytest.raises(CacheError, match="more than it saved"):
            told.calls.one(lambda: None)
    assert len(told.told) == 1
