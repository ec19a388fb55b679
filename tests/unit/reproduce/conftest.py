"""A small release, and a machine that makes it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_reproduce import Machine, ToyRelease


@pytest.fixture
def release(tmp_path: Path) -> ToyRelease:
    return ToyRelease(tmp_path)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")
