"""What a source model's detections are written as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.protocol.failures import StageError
from stages.steps import reference

OWN = {"iou": 0.6, "sigma": 0.0, "across_classes": False, "score": 0.0}


def found(score: float) -> reference.Found:
    return reference.Found(
        {"a.png": [{"box": [0.0, 0.0, 1.0, 1.0], "score": score, "class_id": 1}]}
    )


def test_lists_that_are_not_there_are_null(tmp_path: Path) -> None:
    reference.write(tmp_path, images=found(0.5))
    written = json.loads((tmp_path / reference.RESULT_FILE).read_text("utf-8"))
    assert written == {
        "images": found(0.5).lists,
        "as_built": None,
        "as_tflite": None,
        "ends": {"images": {}},
        "suppression": None,
    }


def test_a_full_list_ends_at_its_least_score(tmp_path: Path) -> None:
    full = found(0.5)
    full.note_end("a.png", full.lists["a.png"], 1)
    full.note_end("b.png", full.lists["a.png"], 2)  # there was room
    full.note_end("c.png", [], 0)
    reference.write(tmp_path, images=found(0.5), as_built=full)
    written = json.loads((tmp_path / reference.RESULT_FILE).read_text("utf-8"))
    assert written["ends"] == {"images": {}, "as_built": {"a.png": 0.5}}


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_numbers_that_overflowed_are_the_model_s(tmp_path: Path, score: float) -> None:
    with pytest.raises(StageError, match="NaN or infinite") as caught:
        reference.write(tmp_path, images=found(score))
    assert caught.value.kind == "unsupported-model"
    assert not (tmp_path / reference.RESULT_FILE).exists()


def test_a_smaller_overlap_by_a_user_s_wish_is_what_counts() -> None:
    assert reference.compared(OWN, {"iou_threshold": 0.3}) == {**OWN, "iou": 0.3}
    assert reference.compared(OWN, {"iou_threshold": 0.9}) == OWN
    assert reference.compared(OWN, None) == OWN
    assert reference.compared(None, {"iou_threshold": 0.3}) is None
