"""Several processes run a request: what begins when, what is told, and how failures end it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage_machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, processes=2)


def meets(other: str) -> dict[str, Any]:
    """A stage that ends only when another one has begun."""
    return {"stage": "meeting", "params": {"other": other}}


def after(step: str) -> dict[str, Any]:
    return {"text": {"from": step, "path": "n.txt"}}


def ended(events: list[dict[str, Any]]) -> list[str]:
    return [event["stage"] for event in events if event["event"] == "finished"]


def test_stages_without_a_common_input_run_at_the_same_time(machine: Machine) -> None:
    code, events = machine.run({"id": "one", **meets("two")}, {"id": "two", **meets("one")})
    assert code == 0, machine.stderr
    assert {event["stage"] for event in events[:2]} == {"one", "two"}
    assert machine.result("one")["facts"]["pid"] != machine.result("two")["facts"]["pid"]


def test_a_stage_waits_for_what_it_reads(machine: Machine) -> None:
    """Files and facts, across environments, and never more processes than allowed."""
    code, events = machine.run(
        {"id": "one", "stage": "good", "params": {"n": 7}},
        {"id": "two", "stage": "elsewhere", "inputs": after("one")},
        {"id": "three", "stage": "good", "params_from": {"n": {"from": "one", "fact": "n"}}},
        *({"id": f"more-{n}", "stage": "good"} for n in range(6)),
    )
    assert code == 0, machine.stderr
    assert len(ended(events)) == 9
    told = [(event["event"], event["stage"]) for event in events]
    for later in ("two", "three"):
        assert told.index(("finished", "one")) < told.index(("started", later))
    assert machine.result("two")["facts"]["text"] == "7"
    assert machine.result("three")["facts"]["n"] == 7
    main = {"one", "three", *(f"more-{n}" for n in range(6))}
    assert len({machine.result(step)["facts"]["pid"] for step in main}) <= 2
    assert "library chatter" in machine.stderr


@pytest.mark.parametrize(
    ("stage", "kind", "message"),
    [
        ("known_failure", "checkpoint", "It is torn."),
        ("crash", "stage-failed", "ZeroDivisionError: last line"),
        ("killed", "stage-out-of-memory", "signal 9"),
    ],
)
def test_a_failure_is_one_event_and_the_last(
    machine: Machine, stage: str, kind: str, message: str
) -> None:
    code, events = machine.run(
        {"id": "bad", "stage": stage},
        {"id": "beside", "stage": "endless"},
        {"id": "never", "stage": "good", "inputs": after("beside")},
    )
    assert code == 3
    failed = [event for event in events if event["event"] == "failed"]
    assert failed == events[-1:]
    assert (failed[0]["stage"], failed[0]["kind"]) == ("bad", kind)
    assert message in failed[0]["message"]
    assert not (machine.root / "out" / "never").exists()


def test_of_two_failures_the_first_in_the_request_is_told(machine: Machine) -> None:
    """The one that a single process would have met, whatever fails first."""
    code, events = machine.run(
        {"id": "slow", **meets("quick")},
        {"id": "quick", "stage": "known_failure"},
        {"id": "bad", "stage": "crash", "inputs": after("slow")},
        {"id": "never", "stage": "good"},
    )
    assert code == 3
    assert [event["stage"] for event in events if event["event"] == "failed"] == ["quick"]
    assert ended(events) == ["slow"]
    code, events = machine.run(
        {"id": "first", "stage": "failing_after", "params": {"other": "second"}},
        {"id": "second", "stage": "known_failure"},
    )
    assert [event["stage"] for event in events if event["event"] == "failed"] == ["first"]


def test_commands_are_nothing_that_a_stage_can_read(machine: Machine) -> None:
    code, _ = machine.run({"id": "one", "stage": "reader"}, {"id": "two", "stage": "reader"})
    assert code == 0, machine.stderr
    assert machine.result("one")["facts"]["read"] == ""


def test_the_number_of_processes_is_a_number(machine: Machine) -> None:
    for wrong in (0, True, "2"):
        machine.processes = wrong
        code, events = machine.run({"id": "one", "stage": "good"}, {"id": "two", "stage": "good"})
        assert code == 3
        assert "'processes' must be a number above 0" in events[-1]["message"]
