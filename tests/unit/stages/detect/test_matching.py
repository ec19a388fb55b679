"""Which detection is which, and how far two lists agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.detect import matching


def found(box: list[float], score: float = 0.9, class_id: int = 1) -> dict[str, Any]:
    return {"box": box, "score": score, "class_id": class_id}


LEFT, RIGHT = [0.1, 0.0, 0.6, 0.4], [0.1, 0.5, 0.6, 0.9]

sides = st.floats(0, 1, width=32)
boxes = st.tuples(sides, sides, sides, sides).map(list)
lists = st.lists(st.builds(found, boxes, st.floats(0.01, 1), st.integers(1, 2)), max_size=8)


def test_overlap() -> None:
    assert matching.iou([0, 0, 2, 2], [0, 1, 2, 3]) == pytest.approx(2 / 6)
    assert matching.iou([0, 0, 1, 1], [0, 1, 1, 2]) == 0  # they touch
    assert matching.iou([0, 0, 0, 1], [0, 0, 0, 1]) == 0  # no area
    # Upside down and mirrored: the product of both sides would be an area.
    assert matching.iou([1, 1, 0, 0], [0, 0, 1, 1]) == 0


@given(boxes, boxes)
def test_overlap_is_a_share_and_has_no_direction(one: list[float], other: list[float]) -> None:
    assert 0 <= matching.iou(one, other) <= 1 + 1e-9
    assert matching.iou(one, other) == matching.iou(other, one)


def test_each_is_paired_once_and_with_the_nearest() -> None:
    shifted = [LEFT[0] + 0.05, *LEFT[1:]]
    pairs = matching.match([found(LEFT)], [found(shifted), found(LEFT)])
    assert [(pair.left, pair.right, pair.iou) for pair in pairs] == [(0, 1, 1.0)]


def test_of_equal_boxes_the_nearest_scores() -> None:
    left = [found(LEFT, 0.3), found(LEFT, 0.9)]
    right = [found(LEFT, 0.85), found(LEFT, 0.35)]
    assert [(pair.left, pair.right) for pair in matching.match(left, right)] == [(0, 1), (1, 0)]


def test_another_class_or_place_is_no_match() -> None:
    assert matching.match([found(LEFT)], [found(LEFT, class_id=2)]) == []
    assert matching.match([found(LEFT)], [found(RIGHT)]) == []


@given(lists, lists)
def test_pairs_are_real(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    pairs = matching.match(left, right)
    assert len({pair.left for pair in pairs}) == len({pair.right for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert left[pair.left]["class_id"] == right[pair.right]["class_id"]
        assert pair.iou == matching.iou(left[pair.left]["box"], right[pair.right]["box"])
        assert pair.iou >= matching.SAME_OBJECT


@given(lists, lists)
def test_agreement_is_a_share_and_has_no_direction(
    left: list[dict[str, Any]], right: list[dict[str, Any]]
) -> None:
    value = matching.agreement(left, right)
    assert 0 <= value <= 1 + 1e-9
    assert value == pytest.approx(matching.agreement(right, left))


def test_agreement_counts_by_score() -> None:
    both = [found(LEFT, 0.9), found(RIGHT, 0.1)]
    assert matching.agreement(both, both) == pytest.approx(1)
    assert matching.agreement(both, both[:1]) == pytest.approx(2 * 0.9 / 1.9)
    assert matching.agreement(both, both[1:]) == pytest.approx(2 * 0.1 / 1.1)
    # Half as sure of the same thing.
    assert matching.agreement([found(LEFT, 0.8)], [found(LEFT, 0.4)]) == pytest.approx(0.8 / 1.2)
    assert matching.agreement([], []) == 1
    assert matching.agreement(both, []) == 0
