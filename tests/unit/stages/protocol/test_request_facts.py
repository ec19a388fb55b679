"""Facts that one stage reports and a later one takes as parameters (``params_from``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stage_machine import Machine

from stages.protocol.failures import StageError
from stages.protocol.request import facts_as_params, load

GIVES = {"id": "gives", "stage": "good", "params": {"n": 21}}


def takes(params_from: Any) -> dict[str, Any]:
    return {"id": "takes", "stage": "good", "params_from": params_from}


def write(folder: Path, *stages: dict[str, Any]) -> Path:
    path = folder / "request.json"
    path.write_text(json.dumps({"protocol": 1, "stages": stages}))
    return path


def test_a_fact_arrives_as_a_parameter(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    code, _ = machine.run(GIVES, takes({"n": {"from": "gives", "fact": "n"}}))
    assert code == 0, machine.stderr
    assert (tmp_path / "out/takes/files/n.txt").read_text() == "21"


def test_a_fact_never_reported_is_a_failed_event(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    code, events = machine.run(GIVES, takes({"n": {"from": "gives", "fact": "m"}}))
    assert code == 3
    assert "stage 'gives' has not reported the fact 'm'" in events[-1]["message"]
    assert not (tmp_path / "out/takes/files").exists()


def test_a_fact_is_checked_against_the_stage_s_parameters(tmp_path: Path) -> None:
    code, events = Machine(tmp_path).run(GIVES, takes({"m": {"from": "gives", "fact": "n"}}))
    assert code == 3
    assert "does not know the parameter 'm'" in events[-1]["message"]


def test_a_fact_wins_over_a_plain_value_and_keeps_its_kind(tmp_path: Path) -> None:
    step = load(
        write(
            tmp_path,
            GIVES,
            {
                **takes({"norm": {"from": "gives", "fact": "normalization"}}),
                "params": {"norm": None, "other": 1},
            },
        )
    ).step("takes")
    result = tmp_path / "gives" / "result.json"
    result.parent.mkdir()
    result.write_text(json.dumps({"facts": {"normalization": {"mean": [127.5]}}}))
    assert facts_as_params(step, tmp_path) == {"norm": {"mean": [127.5]}, "other": 1}


@pytest.mark.parametrize("report", [None, "", "[]", "{}", '{"facts": {}}', '{"facts": null}'])
def test_a_report_without_the_fact_is_named(tmp_path: Path, report: str | None) -> None:
    step = load(write(tmp_path, GIVES, takes({"n": {"from": "gives", "fact": "n"}}))).step("takes")
    (tmp_path / "gives").mkdir()
    if report is not None:
        (tmp_path / "gives" / "result.json").write_text(report)
    with pytest.raises(StageError, match="'gives' has not reported the fact 'n'"):
        facts_as_params(step, tmp_path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "must be an object"),
        ({"n": "gives"}, "needs 'from' and 'fact'"),
        ({"n": {"from": "gives"}}, "needs 'from' and 'fact'"),
        ({"n": {"from": "gives", "fact": "n", "default": 1}}, "needs 'from' and 'fact'"),
        ({"n": {"from": "takes", "fact": "n"}}, "not an earlier stage"),
        ({"n": {"from": ["gives"], "fact": "n"}}, "not an earlier stage"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(StageError, match=words):
        load(write(tmp_path, GIVES, takes(value)))
