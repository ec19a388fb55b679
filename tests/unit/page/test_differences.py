"""Which differences from the source are seen, and how they are said."""

from __future__ import annotations

from typing import Any

import pytest

from kiln.page.differences import compare

BOX = [0.2, 0.2, 0.6, 0.6]


def found(label: str = "cat", score: float = 0.8, box: list[float] | None = None) -> dict[str, Any]:
    ids = {"cat": 1, "dog": 2}
    return {"label": label, "class_id": ids[label], "score": score, "box": box or BOX}


MOVED = [0.2, 0.2, 0.6, 0.55]  # IoU 0.875 with BOX
ELSEWHERE = [0.7, 0.7, 0.9, 0.9]


@pytest.mark.parametrize(
    ("source", "variant", "said"),
    [
        ([], [], "Nothing found, as in the source."),
        ([found()], [found()], "The one object is as in the source."),
        ([found()], [found(score=0.71)], "The one object is as in the source."),
        ([found()], [found(score=0.69)], "1 of 1 differs: cat: score 0.80 became 0.69."),
        ([found()], [found(box=MOVED)], "1 of 1 differs: cat: box moved (IoU 0.88)."),
        (
            [found()],
            [found(box=MOVED, score=0.5)],
            "1 of 1 differs: cat: box moved (IoU 0.88) and score 0.80 became 0.50.",
        ),
        ([found()], [], "1 of 1 differs: cat (0.80) is missing."),
        ([], [found()], "1 of 1 differs: cat (0.80) is not in the source."),
        ([found()], [found("dog")], "1 of 1 differs: cat is called dog."),
        (
            [found()],
            [found(box=ELSEWHERE)],
            "2 of 2 differ: cat (0.80) is missing; cat (0.80) is not in the source.",
        ),
        ([found(), found("dog")], [found(), found("dog")], "Both objects are as in the source."),
        # Just below the threshold on one side is neither missing nor new ...
        ([found(score=0.31)], [found(score=0.28)], "The one object is as in the source."),
        ([found(score=0.28)], [found(score=0.31)], "The one object is as in the source."),
        # ... and what neither is sure of does not count.
        ([found(score=0.29)], [], "Nothing found, as in the source."),
        ([], [found(score=0.29)], "Nothing found, as in the source."),
        ([found(score=0.2)], [found("dog", score=0.2)], "Nothing found, as in the source."),
    ],
)
def test_in_words(source: list[Any], variant: list[Any], said: str) -> None:
    assert compare(source, variant, 0.3).summary() == said


def test_what_is_drawn() -> None:
    source = [found(), found("dog", 0.6, ELSEWHERE)]
    held = compare(source, [found("dog", 0.9), found("cat", 0.5, [0, 0, 0.1, 0.1])], 0.3)
    assert [(item.detection["label"], item.kind) for item in held.drawn] == [
        ("dog", "changed"),
        ("dog", "missed"),
        ("cat", "extra"),
    ]
    assert (held.objects, len(held.differences)) == (3, 3)


def test_each_other_name_is_used_once() -> None:
    held = compare([found(), found()], [found("dog")], 0.3)
    assert held.differences == ("cat is called dog", "cat (0.80) is missing")
