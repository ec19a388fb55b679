"""What this machine is, and what it has room for."""

from __future__ import annotations

import os

import pytest

from kiln.core import machine


@pytest.mark.parametrize(
    ("processors", "gigabytes", "expected"),
    [(2, 24, 2), (8, 16, 4), (1, 64, 1), (4, 3, 1), (4, 4, 1)],
)
def test_room_for_four_gigabytes_each(
    processors: int, gigabytes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "processors", lambda: processors)
    monkeypatch.setattr(machine, "memory", lambda: gigabytes << 30)
    assert machine.room_for(4 << 30) == expected


def test_it_is_this_machine() -> None:
    assert 1 <= machine.processors() <= (os.cpu_count() or 1)
    assert machine.memory() > 1 << 30
    assert machine.cpu_name()
