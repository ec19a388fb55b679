"""Jobs beside the work: some at a time, in order, within bounds."""

from __future__ import annotations

import threading
import time

from patience import wait_until

from kiln.cache.uploads import MOST_WAITING, THREADS, Uploads


def test_jobs_are_done_and_a_failure_stops_nothing() -> None:
    uploads, done = Uploads(), list[int]()

    def fail() -> None:
        raise RuntimeError

    for number in range(50):
        assert uploads.add(lambda number=number: done.append(number))
        assert uploads.add(fail)
    assert uploads.finish(30) == 0
    assert sorted(done) == [*range(50)]


def test_some_at_a_time() -> None:
    uploads, together = Uploads(), threading.Barrier(THREADS)
    for _ in range(THREADS):
        uploads.add(lambda: together.wait(30))  # type: ignore[arg-type, return-value]
    assert uploads.finish(30) == 0
    assert not together.broken


def test_what_comes_after_waits_for_all_before_it_and_for_nothing_else() -> None:
    uploads, order, blocked = Uploads(), list[str](), threading.Event()

    def slow(name: str) -> None:
        time.sleep(0.2)
        order.append(name)

    for name in "ab":
        uploads.add(lambda name=name: slow(name))
    uploads.add_after(lambda: order.append("after"))
    uploads.add(lambda: blocked.wait(30) and None)
    assert wait_until(lambda: "after" in order)
    assert sorted(order[:2]) == ["a", "b"]
    blocked.set()
    assert uploads.finish(30) == 0


def test_several_that_come_after() -> None:
    uploads, order = Uploads(), list[int]()
    for number in range(20):
        uploads.add_after(lambda number=number: order.append(number))
    assert uploads.finish(30) == 0
    assert order == [*range(20)]


def test_the_end_waits_no_longer_than_it_says() -> None:
    uploads, blocked = Uploads(), threading.Event()
    for _ in range(THREADS + 2):
        uploads.add(lambda: blocked.wait(30) and None)
    start = time.monotonic()
    assert uploads.finish(0.1) == THREADS + 2
    assert time.monotonic() - start < 5
    blocked.set()
    assert uploads.finish(30) == 0


def test_there_is_room_for_so_many() -> None:
    uploads, blocked = Uploads(), threading.Event()
    added = sum(uploads.add(lambda: blocked.wait(30) and None) for _ in range(MOST_WAITING + 50))
    assert MOST_WAITING <= added <= MOST_WAITING + THREADS
    blocked.set()
    assert uploads.finish(30) == 0
