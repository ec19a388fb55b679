"""Parity of models whose own post-processing leaves out scores below a threshold."""

from __future__ import annotations

from typing import Any

import pytest

from stages.gates import parity

OWN = 0.6
FLOAT, DYNAMIC = parity.LIMITS["float32"], parity.LIMITS["dynamic"]


def objects(*scores: float | None) -> list[dict[str, Any]]:
    """Objects far from each other, one a class; None: this one was not found."""
    return [
        {"box": [0.1, number, 0.5, number + 0.4], "score": score, "class_id": number}
        for number, score in enumerate(scores, 1)
        if score is not None
    ]


def examine(
    source: list[dict[str, Any]],
    found: list[dict[str, Any]],
    limits: parity.Limits = FLOAT,
    own: float = OWN,
) -> Any:
    return parity.examine({"a": source}, {"a": found}, limits, 0.3, own_threshold=own)


@pytest.mark.parametrize("missing", ["source", "artefact"])
def test_what_the_threshold_cut_off_on_one_side_counts_on_neither(missing: str) -> None:
    one, other = objects(0.9, 0.8, 0.6005), objects(0.9, 0.8, None)
    gate = examine(other, one) if missing == "source" else examine(one, other)
    assert gate.problems == []
    assert (gate.figures["missed"], gate.figures["extra"], gate.figures["pairs"]) == (0, 0, 2)
    assert gate.figures["agreement"] == 1
    assert "1 near the model's own threshold of 0.6 left out" in gate.summary


@pytest.mark.parametrize(
    ("score", "limits", "own"),
    [
        (0.602, FLOAT, OWN),  # more than the allowed difference above it
        (0.86, DYNAMIC, OWN),
        (0.6005, FLOAT, 1e-8),  # the zoo's threshold cuts off nothing that counts
        (0.6005, FLOAT, 0.0),
    ],
)
def test_what_it_cannot_have_cut_off_is_missed(
    score: float, limits: parity.Limits, own: float
) -> None:
    gate = examine(objects(0.9, score), objects(0.9, None), limits, own)
    assert (gate.status, gate.figures["missed"]) == ("failed", 1)


def test_pairs_near_the_threshold_are_judged_like_any() -> None:
    gate = examine(objects(0.9, 0.61), objects(0.9, 0.65))
    assert [problem.code for problem in gate.problems] == ["differs"]
    assert gate.figures["max_score_difference"] == pytest.approx(0.04)


def test_a_threshold_that_nothing_reaches_is_named() -> None:
    (problem,) = examine([], []).problems
    assert problem.code == "nothing-found"
    assert "Nothing in these images reaches the model's own threshold of 0.6" in problem.cause
    assert "--images" in problem.cause
    (problem,) = examine([], [], own=0.0).problems
    assert "finds nothing at all" in problem.cause and "--images" in problem.cause


@pytest.mark.parametrize(
    ("source", "found", "seen"),
    [
        (objects(0.7), objects(None, 0.65), "none, and 2 near the model's own threshold of 0.6"),
        (objects(0.9, 0.7, 0.8), objects(0.9), "1, and 2 near the model's own threshold of 0.6"),
    ],
)
def test_what_is_mostly_near_it_proves_nothing(source: Any, found: Any, seen: str) -> None:
    (problem,) = examine(source, found, DYNAMIC).problems
    assert problem.code == "nothing-found"
    assert problem.seen == f"{seen} that one of the two finds alone, in 1 image"
    assert "--images" in problem.cause


def test_what_no_one_asks_for_is_not_counted_as_near() -> None:
    faint = [{**item, "class_id": 9} for item in objects(*[0.2] * 20)]
    gate = examine(objects(0.9, 0.8), [*objects(0.9, 0.8), *faint], DYNAMIC, 0.2)
    assert gate.problems == []
    assert "left out" not in gate.summary


def test_as_many_near_it_as_clearly_above_are_no_fault() -> None:
    assert examine(objects(0.9, 0.8, 0.7), objects(0.9, 0.8), DYNAMIC).problems == []
    assert examine(objects(0.9, 0.7), objects(0.9), DYNAMIC).problems == []


def test_several_results_are_ranked_by_the_same_detections() -> None:
    source = {"a": objects(0.9, 0.62, 0.7)}
    found = {"a": [*objects(0.9, 0.8), {**objects(0.61)[0], "class_id": 9}]}
    kept, others = parity.clearly_found(source, found, 0.65)
    assert [item["score"] for item in kept["a"]] == [0.9, 0.7]
    # 0.8 is the counterpart of 0.62, and 0.61 has none: both are left out.
    assert [item["score"] for item in others["a"]] == [0.9]
    assert parity.clearly_found(source, found, 0.0) == (source, found)


@pytest.mark.parametrize(
    ("end", "least", "below"), [(0.6, 0.3, 0.61), (0.14, 0.3, 0), (0, 0.0, 0), (1e-8, 0.3, 0)]
)
def test_chance_decides_near_an_end_that_counts(end: float, least: float, below: float) -> None:
    assert parity.chance_below(end, 0.01, least) == pytest.approx(below)


def test_one_among_twenty_does_not_decide_and_two_do() -> None:
    sure = [0.9 - number / 100 for number in range(20)]
    faint: list[float | None] = [*sure, 0.31, 0.3]
    alone = examine(objects(*sure, 0.31), objects(*sure), own=0.0)
    assert (alone.status, alone.figures["missed"]) == ("passed", 1)
    assert alone.figures["unmatched"] > FLOAT.unmatched
    assert examine(objects(*faint), objects(*sure), own=0.0).status == "failed"
    assert examine(objects(*sure[:9], 0.31), objects(*sure[:9]), own=0.0).status == "failed"
    # A sure one is still missed: by the agreement.
    assert examine(objects(*sure), objects(None, *sure[1:]), own=0.0).status == "failed"
