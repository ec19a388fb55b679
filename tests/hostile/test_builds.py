"""A build that is killed again and again, and three at once; `make storm` does more of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile.cases import Case
from hostile.forge import Forge
from hostile.kills import Crowds, Kills

SEED = 12


@pytest.mark.parametrize("name", ["whenever", "publishing"])
def test_killed(name: str, forge: Forge, place: Path) -> None:
    assert Kills(forge).run(Case("kills", name, SEED), place).word == "healed"


def test_three_at_once(forge: Forge, place: Path) -> None:
    assert Crowds(forge).run(Case("crowds", "some-killed", SEED), place).word == "healed"
