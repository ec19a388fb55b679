"""stages.protocol.runner as the driver sees it: a real process, its stdout, its exit code, its
files.

The package's plumbing is copied beside stages made for the test, so no TensorFlow is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from stage_machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_stages_run_in_order_across_both_environments(machine: Machine) -> None:
    code, events = machine.run(
        {"id": "one", "stage": "good", "params": {"n": 7}},
        {
            "id": "two",
            "stage": "elsewhere",
            "inputs": {"text": {"from": "one", "path": "n.txt"}},
        },
        {"id": "three", "stage": "good"},
    )
    assert code == 0, machine.stderr
    kinds = [(event["event"], event["stage"]) for event in events]
    assert kinds == [
        ("started", "one"),
        ("progress", "one"),
        ("warning", "one"),
        ("finished", "one"),
        ("started", "two"),
        ("finished", "two"),
        ("started", "three"),
        ("progress", "three"),
        ("warning", "three"),
        ("finished", "three"),
    ]
    assert "library chatter" in machine.stderr and "more chatter" in machine.stderr
    assert machine.result("two")["facts"]["text"] == "7"
    pids = [machine.result(step)["facts"]["pid"] for step in ("one", "two", "three")]
    assert pids[0] == pids[2] != pids[1]
    assert machine.result("one")["status"] == "ok"
    assert machine.result("one")["peak_rss"] > 1_000_000


def test_one_environment_for_both_is_one_process(machine: Machine) -> None:
    machine.metadata_python = sys.executable
    (machine.root / "in" / "text").write_text("said")
    code, _ = machine.run(
        {"id": "one", "stage": "good"},
        {"id": "two", "stage": "elsewhere", "inputs": {"text": {"path": "text"}}},
    )
    assert code == 0, machine.stderr
    assert machine.result("one")["facts"]["pid"] == machine.result("two")["facts"]["pid"]
    assert machine.result("two")["facts"]["text"] == "said"


@pytest.mark.parametrize(
    ("stage", "kind", "message"),
    [
        ("known_failure", "checkpoint", "It is torn."),
        ("crash", "stage-failed", "ZeroDivisionError: last line"),
        ("full", "disk-full", "model.tflite"),
        ("killed", "stage-out-of-memory", "signal 9"),
        ("bad_facts", "stage-failed", "nan"),
        ("nothing_like_it", "stage-failed", "no stage called"),
        ("events", "stage-failed", "no stage called"),
    ],
)
def test_a_failure_is_one_event_and_leaves_no_result(
    machine: Machine, stage: str, kind: str, message: str
) -> None:
    code, events = machine.run({"id": "bad", "stage": stage}, {"id": "never", "stage": "good"})
    assert code == 3
    failed = [event for event in events if event["event"] == "failed"]
    assert len(failed) == 1
    assert failed[0]["kind"] == kind
    assert message in failed[0]["message"]
    assert not list((machine.root / "out").glob("*/result.json"))


def test_the_traceback_of_a_crash_goes_to_the_log(machine: Machine) -> None:
    machine.run({"id": "bad", "stage": "crash"})
    assert "Traceback" in machine.stderr


def test_unknown_parameters_are_refused(machine: Machine) -> None:
    code, events = machine.run({"id": "one", "stage": "good", "params": {"m": 1}})
    assert code == 3
    assert "does not know the parameter 'm'" in events[-1]["message"]


def test_a_broken_request_is_a_failed_event(machine: Machine) -> None:
    code, events = machine.run({"id": "one"})
    assert code == 3
    assert [event["event"] for event in events] == ["failed"]
