"""How many processes a model's stages get: a share of the machine, or what a user says."""

from __future__ import annotations

import pytest

from kiln.core import machine
from kiln.core.errors import UsageError
from kiln.running.limits import PROCESS_MEMORY, PROCESSES_VARIABLE, Limits, processes_of


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight processors and 40 GiB."""
    monkeypatch.setattr(machine, "processors", lambda: 8)
    monkeypatch.setattr(machine, "memory", lambda: 40 << 30)
    monkeypatch.delenv(PROCESSES_VARIABLE, raising=False)


def test_models_share_the_machine() -> None:
    """As far as its processors, its memory and a container's own limit go."""
    large = Limits(memory=64 << 30)
    assert [processes_of(large, models) for models in (0, 1, 2, 3, 8, 100)] == [8, 8, 4, 2, 1, 1]
    assert processes_of(Limits(memory=3 * PROCESS_MEMORY), 1) == 3
    assert processes_of(Limits(), 1) == 2
    assert processes_of(Limits(memory=1 << 30), 1) == 1


def test_a_user_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESSES_VARIABLE, "5")
    assert processes_of(Limits(), 4) == 5
    for wrong in ("0", "65", "-1", "two", "1.5", "٣", "999999999999"):
        monkeypatch.setenv(PROCESSES_VARIABLE, wrong)
        with pytest.raises(UsageError, match="not a number from 1 to 64"):
            processes_of(Limits(), 1)
