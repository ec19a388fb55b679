"""Signed results: what is written is read, and nothing else passes for one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cached_toys import party

from kiln.cache import envelope
from kiln.core.errors import VerificationError
from kiln.core.stage_result import Blob, StageResult
from kiln.signing import dsse
from kiln.statements.release_statement import release_statement

KEY = "ab" * 32
RESULT = StageResult(
    KEY,
    "export",
    {"saved_model/é.pb": Blob("1" * 64, 5), "x": Blob("2" * 64, 0)},
    {"mean": 127.5, "size": [1, 2], "none": None},
    3,
    1 << 30,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    mine = party(tmp_path)
    assert mine.key is not None
    for result in (RESULT, StageResult(KEY, "check", {})):
        data = envelope.seal(result, mine.key)
        assert envelope.open_envelope(data, KEY, "toy", mine.trust) == result
        assert envelope.peek(data, KEY) == result
        assert envelope.peek(data, "cd" * 32) is None


def changed(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> dict[str, Any]:
    statement = copy.deepcopy(envelope.statement_of(RESULT))
    change(statement, statement["predicate"]["result"])
    return statement


@pytest.mark.parametrize(
    "statement",
    [
        release_statement({"file": "1" * 64}, "v1"),
        changed(lambda s, r: s.update(subject=[])),
        changed(lambda s, r: s["subject"].pop()),
        changed(lambda s, r: s.update(more=1)),
        changed(lambda s, r: s["predicate"].pop("signatureForm")),
        changed(lambda s, r: s.update(predicateType="another")),
        changed(lambda s, r: r.update(key="cd" * 32)),
        changed(lambda s, r: r.update(version=2)),
        changed(lambda s, r: r.update(more=1)),
        changed(lambda s, r: r.update(facts=[])),
        changed(lambda s, r: r.update(seconds=-1.0)),
        changed(lambda s, r: r["files"]["x"].update(size=-1)),
        changed(lambda s, r: r["files"]["x"].update(size=1 << 50)),
        changed(lambda s, r: r["files"]["x"].update(sha256="../../x")),
        changed(lambda s, r: r["files"].update({"../x": r["files"]["x"]})),
    ],
)
def test_nothing_else_that_is_signed_passes_for_one(
    tmp_path: Path, statement: dict[str, Any]
) -> None:
    """Signed by someone trusted, whose tool is wrong, or who signed it for another purpose."""
    mine = party(tmp_path)
    assert mine.key is not None
    data = dsse.seal(statement, mine.key)
    with pytest.raises(VerificationError):
        envelope.open_envelope(data, KEY, "toy", mine.trust)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    mine = party(tmp_path)
    assert mine.key is not None
    data = envelope.seal(RESULT, mine.key)
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1
        with pytest.raises(VerificationError):
            envelope.open_envelope(bytes(flipped), KEY, "toy", mine.trust)
