"""Two machines that want the same plan: one makes it, the other waits and takes it."""

from __future__ import annotations

import json
import platform
import threading
import time
from pathlib import Path

import pytest
from cached_toys import MADE, QUICK, Faulty, Machine, file_objects, read_only, run_all, toy_plan
from patience import wait_until

from kiln.cache.calls import Calls
from kiln.cache.leases import Lease, wait_for
from kiln.core.digest import key_of
from kiln.core.errors import CancelledError

PLAN = toy_plan()
NAME = f"leases/{key_of(sorted(step.key for step in PLAN.steps))}.json"


def build(machine: Machine, waited: list[str], working: threading.Event | None = None) -> list[str]:
    """Make what is lacking, as a builder does; return what was made."""
    with machine.shared.turn(PLAN, waited.append):
        lacking = [step.id for step in machine.shared.lacking(PLAN)]
        if lacking and working is not None:
            working.set()
            time.sleep(0.5)
        for result in run_all(PLAN, machine.store, lacking):
            machine.shared.offer(result)
    machine.shared.finish()
    return lacking


def test_the_second_waits_and_runs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = Machine(tmp_path / "a", file_objects(folder))
    second = Machine(tmp_path / "b", file_objects(folder))
    working, made, waited = threading.Event(), [], list[str]()
    thread = threading.Thread(target=lambda: made.extend(build(first, [], working)))
    thread.start()
    assert working.wait(30)
    assert build(second, waited) == []
    thread.join()
    assert made == [*MADE]
    assert set(waited) == {platform.node()}
    assert not [*(folder / "leases").iterdir()]


def test_two_who_start_together(tmp_path: Path) -> None:
    machines = [Machine(tmp_path / name, file_objects(tmp_path / "cache")) for name in "ab"]
    made: list[list[str]] = []
    event = threading.Event()
    threads = [
        threading.Thread(target=lambda machine=machine: made.append(build(machine, [], event)))
        for machine in machines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, made)) == [0, len(MADE)]


def test_a_dead_owner_is_waited_for_until_its_lease_expires(tmp_path: Path) -> None:
    objects = file_objects(tmp_path / "cache")
    objects.write(NAME, json.dumps({"owner": "1", "machine": "mars\x1b[2J", "beats": 7}).encode())
    waited: list[str] = []
    start = time.monotonic()
    assert build(Machine(tmp_path / "b", objects), waited) == [*MADE]
    assert time.monotonic() - start >= QUICK.abandoned
    assert set(waited) == {"mars\\x1b[2J"}


@pytest.mark.parametrize("junk", [b'{"machine": 5}', b"x" * 100_000])
def test_a_lease_that_is_none_expires(tmp_path: Path, junk: bytes) -> None:
    objects = file_objects(tmp_path / "cache")
    objects.write(NAME, junk)
    waited: list[str] = []
    calls = Calls("the test's", patience=None)
    assert wait_for(objects, NAME, calls, QUICK, waited.append)
    assert set(waited) == {"another machine"}
    assert not objects.listed("leases")


def test_a_living_owner_is_waited_for(tmp_path: Path) -> None:
    """Far longer than a lease that does not change; then not for ever."""
    objects = file_objects(tmp_path / "cache")
    calls = Calls("the test's", patience=None)
    lease = Lease(objects, NAME, calls, QUICK)
    assert lease.take()
    assert not Lease(objects, NAME, calls, QUICK).take()
    ended = threading.Event()
    waiter = threading.Thread(
        target=lambda: (wait_for(objects, NAME, calls, QUICK, lambda who: None), ended.set())
    )
    waiter.start()
    assert not ended.wait(1.7 * QUICK.abandoned)
    lease.release()
    assert ended.wait(5)
    waiter.join()


def test_who_lost_a_lease_leaves_the_others(tmp_path: Path) -> None:
    objects = file_objects(tmp_path / "cache")
    calls = Calls("the test's", patience=None)
    lost = Lease(objects, NAME, calls, QUICK)
    assert lost.take()
    objects.remove(NAME)  # by someone who took it for dead
    other = Lease(objects, NAME, calls, QUICK)
    assert wait_until(other.take, timeout=5)
    time.sleep(3 * QUICK.beat)
    lost.release()
    assert objects.listed("leases")
    other.release()
    assert not objects.listed("leases")


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    objects = file_objects(tmp_path / "cache")
    objects.write(NAME, b"{}")

    def stop(who: str) -> None:
        raise CancelledError("Stopped.")

    with (
        pytest.raises(CancelledError),
        Machine(tmp_path / "b", objects).shared.turn(PLAN, stop),
    ):
        pass


def test_who_fails_gives_the_lease_up(tmp_path: Path) -> None:
    objects = file_objects(tmp_path / "cache")
    machine = Machine(tmp_path / "a", objects)
    with pytest.raises(CancelledError), machine.shared.turn(PLAN, lambda who: None):
        assert objects.listed("leases")
        raise CancelledError("Stopped.")
    assert not objects.listed("leases")


def test_where_no_lease_can_be_written_work_is_done(tmp_path: Path) -> None:
    objects = Faulty(file_objects(tmp_path / "cache"), read_only)
    assert build(Machine(tmp_path / "b", objects), []) == [*MADE]
