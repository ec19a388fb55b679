"""stages.protocol.runner as the driver sees it: a real process, its stdout, its exit code, its
files.

The package's plumbing is copied beside stages made for the test, so no TensorFlow is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stages

PLUMBING = ("__init__.py", "__main__.py", "protocol", "steps/__init__.py")

STAGES = {
    "good": """
import os, sys
ENVIRONMENT = "main"
PARAMS = {"n": 1}
def run(params, inputs, out, emit):
    print("library chatter")
    os.write(1, b"more chatter\\n")
    emit.progress(1, 2, "half")
    emit.warning("careful")
    (out / "n.txt").write_text(str(params["n"]))
    return {"n": params["n"], "pid": os.getpid()}
""",
    "elsewhere": """
import os
ENVIRONMENT = "metadata"
def run(params, inputs, out, emit):
    return {"text": inputs["text"].read_text(), "pid": os.getpid()}
""",
    "known_failure": """
from stages.protocol.failures import StageError
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    raise StageError("checkpoint", "It is torn.", "Get another.")
""",
    "crash": """
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    raise ZeroDivisionError("first\\nlast line")
""",
    "full": """
import errno
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    raise OSError(errno.ENOSPC, "No space left on device", "model.tflite")
""",
    "killed": """
import os, signal
ENVIRONMENT = "metadata"
def run(params, inputs, out, emit):
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "bad_facts": """
ENVIRONMENT = "main"
def run(params, inputs, out, emit):
    return {"n": float("nan")}
""",
}


class Machine:
    """A copied package with the test's stages, and its /in and /out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        package = root / "kiln" / "stages"
        package.mkdir(parents=True)
        source = Path(stages.__file__).parent
        for name in PLUMBING:
            target = package / name
            target.parent.mkdir(exist_ok=True)
            copy = shutil.copytree if (source / name).is_dir() else shutil.copy
            copy(source / name, target)
        for name, code in STAGES.items():
            (package / "steps" / f"{name}.py").write_text(code)
        (root / "in").mkdir()
        (root / "out").mkdir()
        # The other environment's interpreter: the same one, under a path of its own.
        self.metadata_python = str(root / "python")
        Path(self.metadata_python).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        Path(self.metadata_python).chmod(0o755)

    def run(self, *steps: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """Run a request; returns the exit code and the events (every line must be one)."""
        (self.root / "in/request.json").write_text(json.dumps({"protocol": 1, "stages": steps}))
        done = subprocess.run(
            [sys.executable, "-m", "stages"],
            cwd=self.root / "kiln",
            env={
                "PATH": os.environ["PATH"],
                "KILN_IN": str(self.root / "in"),
                "KILN_OUT": str(self.root / "out"),
                "KILN_METADATA_PYTHON": self.metadata_python,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.stderr = done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def result(self, step: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.root / "out" / step / "result.json").read_text())
        return loaded


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
