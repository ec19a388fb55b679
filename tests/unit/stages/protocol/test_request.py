"""stages.protocol.request: what a request may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.protocol import request
from stages.protocol.failures import StageError

GOOD: dict[str, Any] = {
    "protocol": 1,
    "stages": [
        {"id": "a", "stage": "export", "params": {}, "inputs": {"x": {"path": "inputs/x"}}},
        {"id": "b-1", "stage": "convert", "inputs": {"y": {"from": "a", "path": "saved_model"}}},
    ],
}


def _load(tmp_path: Path, data: Any) -> request.Request:
    path = tmp_path / "request.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return request.load(path)


def _with(index: int, **changes: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(GOOD))
    data["stages"][index].update(changes)
    return data


def test_reads_steps_in_order_and_resolves_both_roots(tmp_path: Path) -> None:
    loaded = _load(tmp_path, GOOD)
    assert [step.id for step in loaded.steps] == ["a", "b-1"]
    source, target = tmp_path / "in/inputs/x", tmp_path / "out/a/files/saved_model"
    source.mkdir(parents=True)
    target.mkdir(parents=True)
    assert loaded.resolve(loaded.step("a"), tmp_path / "in", tmp_path / "out") == {"x": source}
    assert loaded.resolve(loaded.step("b-1"), tmp_path / "in", tmp_path / "out") == {"y": target}


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    loaded = _load(tmp_path, GOOD)
    with pytest.raises(StageError, match="input 'x' of stage 'a'"):
        loaded.resolve(loaded.step("a"), tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "cannot be read"),
        ([], "protocol 1"),
        ({**GOOD, "protocol": 2}, "protocol 1"),
        ({**GOOD, "more": 1}, "nothing else"),
        (_with(0, extra=1), "each stage is an object"),
        (_with(0, id="../a"), "not a stage id"),
        (_with(1, id="a"), "used twice"),
        (_with(0, stage="os.path"), "not a stage name"),
        (_with(0, params=[]), "must be objects"),
        (_with(0, inputs={"x": {"path": "/etc/passwd"}}), "leaves its root"),
        (_with(0, inputs={"x": {"path": "inputs/../../x"}}), "leaves its root"),
        (_with(0, inputs={"x": {"path": "x", "from": "b-1"}}), "not an earlier stage"),
        (_with(0, inputs={"x": {"path": "x", "from": "a"}}), "not an earlier stage"),
        (_with(0, inputs={"x": "inputs/x"}), "not an object"),
    ],
)
def test_refuses(tmp_path: Path, data: Any, reason: str) -> None:
    with pytest.raises(StageError, match=reason):
        _load(tmp_path, data)


def test_params_are_completed_and_checked() -> None:
    declared = {"variant": request.REQUIRED, "size": None}
    complete = request.complete_params({"variant": "int8"}, declared, "convert")
    assert complete == {"variant": "int8", "size": None}
    with pytest.raises(StageError, match="needs the parameter 'variant'"):
        request.complete_params({}, declared, "convert")
    with pytest.raises(StageError, match="does not know the parameter 'sise'") as caught:
        request.complete_params({"variant": "int8", "sise": 1}, declared, "convert")
    assert "size" in caught.value.remedy
