"""kiln.running.stage_user: stages run as nobody who is known here."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from kiln.running import stage_user as module
from kiln.running.stage_user import free_id, owner_outside, stage_user, subordinate_ranges


def test_the_id_is_nobodys() -> None:
    number = free_id()
    with pytest.raises(KeyError):
        pwd.getpwuid(number)
    with pytest.raises(KeyError):
        grp.getgrgid(number)
    assert 0 < number < 1 << 31


def test_ids_given_out_for_containers_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = tmp_path / "subuid"
    given.write_text(f"somebody:{module.PREFERRED - 9}:100\nodd line\nx:y:z\n")
    monkeypatch.setattr(module, "_SUBORDINATE", (str(given), str(tmp_path / "missing")))
    assert free_id.__wrapped__() == module.PREFERRED - 10
    assert subordinate_ranges(["a:1:2", "", "nonsense"]) == [range(1, 3)]


def test_where_few_ids_exist_one_of_them_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside a container of somebody's, root may have 65,536 ids in all."""
    monkeypatch.setattr(module, "_mapped_ids", lambda: range(65_536))
    number = free_id.__wrapped__()
    assert 60_000 < number < 65_534  # 65,534 is "nobody", who is somebody
    with pytest.raises(KeyError):
        pwd.getpwuid(number)


def test_who_a_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage_user(rootless=True) == (0, 0)
    monkeypatch.setattr(os, "getuid", lambda: 4001)
    monkeypatch.setattr(os, "getgid", lambda: 4002)
    assert stage_user(rootless=False) == (4001, 4002)
    assert owner_outside(rootless=True) == owner_outside(rootless=False) == 4001
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert stage_user(rootless=False) == (free_id(), free_id())
    assert owner_outside(rootless=False) == free_id()
    assert owner_outside(rootless=True) == 0
