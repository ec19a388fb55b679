"""What two right lists of detections need not have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from stages.gates import own_list, parity

HARD = {"iou": 0.6, "soft": False}
SOFT = {"iou": 0.5, "soft": True}
STRICT = parity.LIMITS["float32"]


def thing(left: float, score: float, class_id: int = 1, width: float = 0.2) -> dict[str, Any]:
    """An object in the middle rows; two whose left sides differ by d overlap by (w - d)/(w + d)."""
    return {"box": [0.4, left, 0.6, left + width], "score": score, "class_id": class_id}


def reduced(
    own: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
    suppression: Any = HARD,
    capacity: Any = None,
) -> tuple[list[float], list[float]]:
    """Scores of what both lists must have in common."""
    both = own_list.comparable(own, found, suppression, capacity, 0.01)
    left, right = ([item["score"] for item in one] for one in both)
    return left, right


def test_a_box_of_two_classes_is_found_once() -> None:
    own = [thing(0.4, 0.9, 1), thing(0.4, 0.7, 2)]
    assert reduced(own, own[:1]) == ([0.9], [0.9])
    # But something must be there that suppressed it.
    assert reduced(own, []) == ([0.9, 0.7], [])
    assert reduced(own, own[1:]) == ([0.9, 0.7], [0.7])


def test_what_suppresses_must_be_found_by_the_model_too() -> None:
    own = [thing(0.4, 0.7, 2)]
    assert reduced(own, [thing(0.4, 0.9, 1)]) == ([0.7], [0.9])


@pytest.mark.parametrize(
    ("shift", "missed"),
    [
        (0.1, True),  # overlap 1/3: too little to be suppressed
        (0.06, False),  # 0.54: near 0.6
        (0.02, False),  # 0.82
    ],
)
def test_only_near_boxes_are_suppressed(shift: float, missed: bool) -> None:
    own = [thing(0.4, 0.9, 1), thing(0.4 + shift, 0.7, 2)]
    assert reduced(own, own[:1]) == ([0.9, 0.7] if missed else [0.9], [0.9])


def test_at_the_border_a_lower_overlap_may_have_been_a_higher_one() -> None:
    own = [thing(0.0, 0.9, 1), thing(0.1, 0.7, 2)]  # overlap 1/3 once clipped: more than 0.3
    assert reduced(own, own[:1]) == ([0.9], [0.9])


def test_extra_boxes_must_be_in_the_model_s_list() -> None:
    own = [thing(0.1, 0.9)]
    assert reduced(own, [*own, thing(0.6, 0.8)]) == ([0.9], [0.9, 0.8])
    # Unless its own, better one of the same class suppressed them ...
    # (Here the artefact suppressed that one by the box of class 2, and kept its neighbour.)
    own = [thing(0.37, 0.9, 2), thing(0.4, 0.8, 1)]
    found = [thing(0.37, 0.9, 2), thing(0.44, 0.7, 1)]
    assert reduced(own, found) == ([0.9], [0.9])
    # ... of the same class, and better.
    assert reduced(own, [found[0], thing(0.44, 0.7, 3)])[1] == [0.9, 0.7]
    assert reduced(own, [found[0], thing(0.44, 0.85, 1)]) == ([0.9, 0.8], [0.9, 0.85])


def test_boxes_are_clipped_and_those_outside_do_not_count() -> None:
    own = [{"box": [0.0, 0.0, 0.5, 0.5], "score": 0.9, "class_id": 1}]
    found = [
        {**own[0], "box": [-0.5, -0.5, 0.5, 0.5]},
        {**own[0], "box": [0.9, 0.9, 1.2, 1.2]},  # its centre is in the filling
        {**own[0], "box": [1.1, 0.0, 1.2, 0.5]},
    ]
    left, right = own_list.comparable(own, found, HARD, None, 0.01)
    assert left == own
    assert right == [{**own[0], "box": [0.0, 0.0, 0.5, 0.5]}]


def test_own_boxes_may_end_behind_the_image_too() -> None:
    own = [{"box": [0.5, 0.5, 1.5, 0.9], "score": 0.9, "class_id": 1}]
    found = [{**own[0], "box": [0.5, 0.5, 1.7, 0.9]}]
    left, right = own_list.comparable(own, found, SOFT)
    assert left == right == [{**own[0], "box": [0.5, 0.5, 1.0, 0.9]}]


def test_what_a_full_list_cut_off_does_not_count() -> None:
    own = [thing(0.1, 0.9), thing(0.4, 0.5), thing(0.7, 0.495)]
    assert reduced(own[:2], [own[0], own[2]], capacity=2) == ([0.9], [0.9])
    assert reduced(own[:2], [own[0], own[2]], capacity=3) == ([0.9, 0.5], [0.9, 0.495])
    assert reduced([own[0], thing(0.4, 0.6)], [own[0], own[2]], capacity=2)[0] == [0.9, 0.6]


def test_a_full_list_may_have_lost_boxes_in_the_filling_of_a_letterbox() -> None:
    """Of three rows the artefact filled two with boxes of the filling; the lower one ends it."""
    own = [thing(0.1, 0.9), thing(0.4, 0.5), thing(0.7, 0.3)]
    found = own[:1]
    both = own_list.comparable(own, found, HARD, 3, 0.01, found_end=0.49)
    assert [[item["score"] for item in one] for one in both] == [[0.9, 0.5], [0.9]]
    both = own_list.comparable(own, found, HARD, 3, 0.01, found_end=0.495)
    assert [[item["score"] for item in one] for one in both] == [[0.9], [0.9]]

    source = own_list.Lists({"a": own}, HARD, {"a": own})
    assert own_list.examine(source, {"a": found}, STRICT, 0.3, 3).problems
    gate = own_list.examine(source, {"a": found}, STRICT, 0.3, 3, ends={"a": 0.6})
    assert (gate.problems, gate.figures["missed"], gate.figures["as_tflite"]["missed"]) == (
        [], 0, 0,
    )  # fmt: skip
    # Above that end it must hold everything.
    assert own_list.examine(source, {"a": found}, STRICT, 0.3, 3, ends={"a": 0.4}).problems


def test_an_end_is_that_of_a_full_list() -> None:
    full = [thing(0.1, 0.9), thing(0.4, 0.5)]
    assert [own_list.end(full, capacity) for capacity in (2, 3, None)] == [0.5, 0.0, 0.0]


def test_soft_suppression_lowers_scores() -> None:
    found = [thing(0.4, 0.9, 1), thing(0.5, 0.8, 1), thing(0.0, 0.7, 1)]
    own = [thing(0.4, 0.9, 1), thing(0.0, 0.7, 1), thing(0.5, 0.64, 1)]
    assert reduced(own, found, SOFT) == ([0.9, 0.7, 0.8], [0.9, 0.8, 0.7])
    # Only where something better overlaps, and never upwards.
    assert reduced(
        [thing(0.4, 0.9), thing(0.7, 0.5)], [thing(0.4, 0.9), thing(0.7, 0.6)], SOFT
    ) == (
        [0.9, 0.5],
        [0.9, 0.6],
    )
    assert reduced(own, [found[0], thing(0.5, 0.5), found[2]], SOFT)[0] == [0.9, 0.7, 0.64]


def test_without_suppression_every_box_counts() -> None:
    own = [thing(0.4, 0.9, 1), thing(0.4, 0.7, 2)]
    assert reduced(own, own[:1], None) == ([0.9, 0.7], [0.9])


# --- the gate ----------------------------------------------------------------------------------


def test_both_lists_must_be_met() -> None:
    own = [thing(0.1, 0.9, 1), thing(0.1, 0.7, 2), thing(0.6, 0.8, 1)]
    operator = [own[0], own[2]]
    lists = own_list.Lists({"a": own}, HARD, {"a": operator})
    gate = own_list.examine(lists, {"a": operator}, STRICT, 0.3)
    assert (gate.status, gate.name) == ("passed", "parity")
    assert gate.figures["pairs"] == gate.figures["as_tflite"]["pairs"] == 2
    # A score that the model's own list does not have, ...
    off = [own[0], {**own[2], "score": 0.75}]
    assert own_list.examine(lists, {"a": off}, STRICT, 0.3).status == "failed"
    # ... also where the list by the operator's rule made the same mistake ...
    same = own_list.Lists({"a": own}, HARD, {"a": off})
    assert own_list.examine(same, {"a": off}, STRICT, 0.3).status == "failed"
    # ... and a mistake that only that list shows: the second class of a box, too.
    gate = own_list.examine(lists, {"a": own}, STRICT, 0.3)
    assert [problem.seen for problem in gate.problems] == [
        "33.3 %: 0 missed, 1 extra, 2 in common; 0.829"
    ]


def test_an_artefact_that_finds_nothing_fails() -> None:
    lists = own_list.Lists({"a": [thing(0.1, 0.9)]}, HARD)
    assert own_list.examine(lists, {"a": []}, STRICT, 0.3).status == "failed"
