"""What a limit on detections of a class leaves of the net's own list."""

from __future__ import annotations

from stages.steps.modelmaker_reference import _first_of_classes


def test_the_first_of_each_class_stay() -> None:
    items = [{"class_id": label, "score": score} for label, score in
             ((1, 0.9), (2, 0.8), (1, 0.7), (1, 0.6), (2, 0.5))]  # fmt: skip
    found = _first_of_classes({"a": items, "b": []}, 2)
    assert found == {"a": [items[0], items[1], items[2], items[4]], "b": []}
    assert _first_of_classes({"a": items}, 9) == {"a": items}
