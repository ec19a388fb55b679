from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recipe_texts import GOOD, write

from kiln.checks.verdict import allowance, explained, failures, judge, one_line
from kiln.core.errors import CheckFailedError
from kiln.recipes.recipe import Recipe, load

PROBLEM = {"code": "labels-shifted", "expected": "23 lines", "seen": "24", "cause": "Background."}


def gate(name: str, status: str) -> dict[str, Any]:
    problems = [PROBLEM] if status in ("failed", "allowed") else []
    return {"gate": name, "status": status, "summary": "", "problems": problems, "figures": {}}


def report(**variants: list[dict[str, Any]]) -> dict[str, Any]:
    return {"model": "toy", "variants": {name: {"gates": g} for name, g in variants.items()}}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load(write(tmp_path, GOOD))


def test_nothing_failed_is_no_error(recipe: Recipe) -> None:
    fine = report(int8=[gate("parity", "passed"), gate("labels", "allowed"), gate("x", "skipped")])
    assert failures(fine) == {}
    judge(fine, recipe)
    assert one_line(fine) == "toy: 1 checks passed, 1 failed, as allowed, 1 skipped"


def fed(described: float | None, stretch: float | None) -> list[dict[str, Any]]:
    figures = {"described": described, "letterbox": 0.9, "stretch": stretch}
    return [gate("parity", "passed"), {**gate("feeding", "passed"), "figures": figures}]


def test_the_cost_of_stretching_is_told() -> None:
    """By the file that it costs most."""
    said = one_line(report(float32=fed(0.998, 0.714), int8=fed(0.9, 0.7), dynamic=fed(1, None)))
    assert said == (
        "toy: 6 checks passed; agreement with its source: 1.00 fed as described, 0.71 as the Task "
        "Library and MediaPipe do: stretched, their own resizing (docs/feeding.md)"
    )
    assert one_line(report(float32=fed(0.998, 0.99))) == "toy: 2 checks passed"
    raw = {**gate("structure", "passed"), "figures": {"anchors": 1917}}
    assert one_line(report(float32=[raw, *fed(0.998, 0.714)])) == (
        "toy: 3 checks passed; agreement with its source: 1.00 fed as described, 0.71 stretched by "
        "an image library (docs/feeding.md)"
    )


def test_a_failure_says_all_and_how_to_live_with_it(recipe: Recipe) -> None:
    bad = report(
        int8=[gate("labels", "failed"), gate("runtime-litert", "failed")],
        float32=[gate("labels", "passed")],
    )
    with pytest.raises(CheckFailedError) as caught:
        judge(bad, recipe, "/store/logs/toy.checks.json")
    error = caught.value
    assert error.exit_code == 19
    assert error.message.startswith("toy: 2 checks failed:\n")
    for words in ("int8, labels (labels-shifted)", "expected: 23 lines", "likely cause: Backgr"):
        assert words in error.message
    assert 'allow = ["labels", "runtimes"]' in error.remedy
    assert "/store/logs/toy.checks.json" in error.remedy


def test_who_gave_options_is_told_of_options(tmp_path: Path) -> None:
    text = GOOD.replace("[source]", 'allow = ["structure"]\n[source]', 1)
    made = load(write(tmp_path, text), from_options=True)
    with pytest.raises(CheckFailedError) as caught:
        judge(report(int8=[gate("parity", "failed")]), made)
    # What was allowed before has to be given again.
    assert "add --allow parity --allow structure to the command." in caught.value.remedy
    assert "recipe" not in caught.value.remedy
    of_a_recipe = load(write(tmp_path, text)).how_to_allow(["parity"])
    assert of_a_recipe == 'write allow = ["parity", "structure"] in its recipe'


def test_what_is_not_known_is_not_printed() -> None:
    nameless = {**gate("parity", "failed"), "problems": [{**PROBLEM, "cause": ""}]}
    assert not any("cause" in line for line in explained("int8", nameless))


@pytest.mark.parametrize(
    ("name", "word"),
    [("trained", "untrained-heads"), ("runtime-mediapipe", "runtimes"), ("labels", "labels")],
)
def test_how_a_recipe_calls_a_gate(name: str, word: str) -> None:
    assert allowance(name) == word
