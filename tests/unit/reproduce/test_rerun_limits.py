"""A stranger's release: how much of this machine it may use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from toy_reproduce import Machine, ToyRelease

from kiln.cli.reproduce import reproduce
from kiln.core.errors import UsageError, VerificationError
from kiln.reproduce.recorded import read
from kiln.reproduce.targets import recorded_in
from kiln.running.limits import Limits, Outcome


def limits_of(memory: Any, timeout: Any) -> Callable[[dict[str, Any]], None]:
    def edit(statement: dict[str, Any]) -> None:
        inside = statement["predicate"]["buildDefinition"]["internalParameters"]
        inside["limits"] = {"memory": memory, "timeout": timeout}

    return edit


@pytest.mark.parametrize(
    ("memory", "timeout"),
    [
        (float("nan"), 1), (1, float("nan")), (True, 1), (1, True), (0, 1), (1, 0), (-1, 1),
        (1, -1), (1.5, 1), (1e308, 1), ("1", 1), (1, "1"), (None, 1), (1, None), ([], 1), ({}, 1),
    ],
)  # fmt: skip
def test_limits_that_are_none(release: ToyRelease, memory: Any, timeout: Any) -> None:
    statement = release.statement("int8")
    limits_of(memory, timeout)(statement)
    with pytest.raises(VerificationError, match="limits"):
        read(statement, Path("x.json"))


@pytest.mark.parametrize(
    ("memory", "timeout"), [(1 << 60, 1e308), (10**400, 10**400), (9 << 30, 3601)]
)
def test_limits_are_this_machine_s(
    release: ToyRelease, machine: Machine, memory: int, timeout: float
) -> None:
    release.edit = limits_of(memory, timeout)
    release.write()
    machine.run(release)
    assert machine.door.calls[0]["limits"] == Limits()
    assert len(machine.notes()) == 2
    assert "at most (--memory)" in machine.notes()[0]
    assert "at most (--timeout)" in machine.notes()[1]


def test_inf_is_no_time_either(release: ToyRelease) -> None:
    """Canonical JSON has no word for it; a statement in plain JSON may."""
    statement = release.statement("int8")
    limits_of(1 << 30, float("inf"))(statement)
    assert read(statement, Path("x.json")).limits.timeout <= 1e9
    path = release.root / "statement.json"
    path.write_text(json.dumps(statement))
    assert "Infinity" in path.read_text()
    with pytest.raises(VerificationError, match="Infinity"):
        recorded_in(path, None)


def test_many_artefacts_have_no_more_time_than_one_container(
    tmp_path: Path, machine: Machine
) -> None:
    release = ToyRelease(tmp_path, variants=[f"v{number}" for number in range(30)])
    release.edit = limits_of(1 << 30, 3000)
    release.write()
    machine.run(release)
    (call,) = machine.door.calls
    assert call["limits"] == Limits(memory=1 << 30, timeout=3600.0)
    assert machine.notes() == [], "no recorded limit was above this machine's"


def test_a_person_may_give_more(release: ToyRelease, machine: Machine) -> None:
    release.edit = limits_of(1 << 40, 10_000)
    release.write()
    machine.run(release, most=Limits(memory=16 << 30, timeout=7200.0))
    assert machine.door.calls[0]["limits"] == Limits(memory=16 << 30, timeout=7200.0)


@pytest.mark.parametrize(
    "words", [("--memory", "1e308"), ("--memory", "9" * 400 + "GiB"), ("--timeout", "soon")]
)
def test_options_that_are_no_limits(release: ToyRelease, words: tuple[str, str]) -> None:
    release.write()
    ended = CliRunner().invoke(reproduce, [str(release.folder), "--unverified", *words])
    assert isinstance(ended.exception, UsageError)


def test_out_of_memory_says_which_option_helps(release: ToyRelease, machine: Machine) -> None:
    release.write()
    machine.play = lambda container: Outcome(137, True, False, "a log")
    verdict = machine.run(release)["toy_int8.tflite"]
    assert "--memory" in verdict.causes[0].text and "recipe" not in verdict.causes[0].text
