"""What the detection operator is told, from the configuration and from what is wanted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stages.odapi.pipeline import SUPPRESSION, built_suppression, set_suppression
from stages.protocol.failures import StageError

NOTHING = dict.fromkeys(SUPPRESSION)


def config(kind: str = "ssd", iou: float = 0.6) -> Any:
    """A configuration as far as it is looked at."""
    own = SimpleNamespace(
        score_threshold=1e-8,
        iou_threshold=iou,
        max_detections_per_class=20,
        max_total_detections=100,
    )
    ssd = SimpleNamespace(post_processing=SimpleNamespace(batch_non_max_suppression=own))
    return SimpleNamespace(model=SimpleNamespace(ssd=ssd, WhichOneof=lambda _: kind))


OWN = {
    "regular": False,
    "score_threshold": 1e-8,
    "iou_threshold": 0.6,
    "detections_per_class": 20,
}


def test_the_model_s_own() -> None:
    assert built_suppression(config(), NOTHING) == OWN
    assert built_suppression(config("center_net"), {**NOTHING, "regular_nms": False}) is None


def test_what_is_wanted_comes_first() -> None:
    wanted = {
        "regular_nms": True,
        "nms_score_threshold": 0.0,
        "nms_iou_threshold": 1.0,
        "max_detections_per_class": 3,
    }
    asked = config()
    found = built_suppression(asked, wanted)
    assert found == {
        "regular": True,
        "score_threshold": 0.0,
        "iou_threshold": 1.0,
        "detections_per_class": 3,
    }
    assert built_suppression(asked, NOTHING) == OWN  # nothing was changed
    set_suppression(asked, found)
    now = {**found, "regular": False}
    assert built_suppression(asked, NOTHING) == now


def test_no_threshold_is_no_number() -> None:
    asked = config()
    own = asked.model.ssd.post_processing.batch_non_max_suppression
    own.score_threshold = float("-inf")  # which JSON cannot hold
    found = built_suppression(asked, NOTHING)
    assert found is not None
    assert found["score_threshold"] is None
    set_suppression(asked, found)
    assert own.score_threshold == float("-inf")


def test_what_cannot_be() -> None:
    for asked, wanted, words in (
        (config("center_net"), {"nms_iou_threshold": 0.5}, "nms_iou_threshold has no meaning"),
        (config("center_net"), {"nms_score_threshold": 0.0}, "nms_score_threshold has no"),
        (config(iou=0.0), {}, "overlap threshold of 0 "),
        (config(), {"nms_iou_threshold": 1.5}, "overlap threshold of 1.5"),
    ):
        with pytest.raises(StageError, match=words) as caught:
            built_suppression(asked, {**NOTHING, **wanted})
        assert caught.value.kind == "unsupported-model"
