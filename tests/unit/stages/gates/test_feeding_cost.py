from __future__ import annotations

from typing import Any

import pytest

from stages.files import feeding
from stages.gates import feeding_cost, own_list

LETTERBOX = feeding.letterbox((0, 0, 0), "corner")


def things(*scores: float) -> dict[str, list[dict[str, Any]]]:
    """An image with objects far from each other."""
    return {
        "a": [
            {"box": [0.1, number / 10, 0.2, number / 10 + 0.1], "score": score, "class_id": 1}
            for number, score in enumerate(scores)
        ]
    }


SOURCE = own_list.Lists(things(0.9, 0.8, 0.7))


def examine(described: Any, letterbox: Any, stretch: Any, how: Any = LETTERBOX) -> Any:
    found = {"described": described, "letterbox": letterbox, "stretch": stretch}
    return feeding_cost.examine(SOURCE, found, how, 0.3)


def test_the_right_way_passes_and_the_others_cost_is_told() -> None:
    gate = examine(SOURCE.own, SOURCE.own, things(0.9))
    assert (gate.status, gate.name) == ("passed", "feeding")
    assert gate.figures["described"] == gate.figures["letterbox"] == 1.0
    # By hand: twice what both have, by all scores.
    assert gate.figures["stretch"] == pytest.approx(2 * 0.9 / (2.4 + 0.9), abs=1e-6)
    assert gate.figures["objects"]["stretch"] == {"pairs": 1, "missed": 2, "extra": 0}
    assert gate.figures["images"] == ["a"]
    assert gate.summary == (
        "agreement with the source: letterboxed as described 1.000; letterboxed the usual way"
        " 1.000; stretched 0.545: 2 of 3 objects lost"
    )


@pytest.mark.parametrize(
    ("how", "other", "words"),
    [(LETTERBOX, "stretch", "stretched"), (feeding.ASSUMED, "letterbox", "letterboxed")],
)
def test_a_better_way_is_named(how: Any, other: str, words: str) -> None:
    ways = {"described": things(0.9), "letterbox": things(0.9), "stretch": things(0.9)}
    gate = examine(**{**ways, other: things(0.9, 0.8, 0.7)}, how=how)
    [problem] = gate.problems
    assert problem.code == "feeding"
    assert f"pictures {words}: agreement 1.000" in problem.expected
    assert "0.545" in problem.seen
    assert f"trained on {words} ones" in problem.cause


def test_a_way_that_is_hardly_better_is_not() -> None:
    assert examine(things(0.85, 0.75, 0.65), things(0.9), SOURCE.own).status == "passed"


def test_nor_is_one_among_bad_ones() -> None:
    assert examine(things(), things(0.3), things(0.4)).status == "passed"


def test_ways_that_were_not_tried() -> None:
    gate = feeding_cost.examine(SOURCE, {"described": things(0.9, 0.8)}, LETTERBOX, 0.3)
    assert gate.status == "passed"
    assert gate.summary.endswith("letterboxed as described 0.829: 1 of 3 objects lost")


def test_other_ways() -> None:
    ways = feeding_cost.other_ways(feeding.letterbox((1, 2, 3), "corner", "nearest"))
    assert ways == {"letterbox": feeding.letterbox((1, 2, 3)), "stretch": feeding.ASSUMED}


def test_of_a_changed_model_only_the_cost_is_told() -> None:
    found = {"described": things(0.9), "letterbox": SOURCE.own, "stretch": things()}
    gate = feeding_cost.examine(SOURCE, found, feeding.ASSUMED, 0.3, changed=True)
    assert gate.status == "passed"
    assert "2 of 3 objects lost" in gate.summary
    assert gate.summary.endswith("the source is the unmodified model")


@pytest.mark.parametrize(("described", "letterbox"), [((0.9, 0.8, 0.7), False), ((0.9,), True)])
def test_another_way_is_run_if_it_can_be_better_and_stretching_always(
    described: tuple[float, ...], letterbox: bool
) -> None:
    found = things(*described)
    assert feeding_cost.telling("letterbox", SOURCE, found, 0.3) is letterbox
    assert feeding_cost.telling("stretch", SOURCE, found, 0.3)
