"""The compare stage on the toy detectors, run by their own metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import BLUE, GREEN, GREY, RED, picture
from PIL import Image
from places import FIXTURES

from stages.protocol.events import Emitter, EventStream
from stages.protocol.failures import StageError
from stages.protocol.request import complete_params
from stages.steps import compare

pytest.importorskip("ai_edge_litert")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(picture(RED, GREY, GREY, GREEN)).save(folder / "a.png")
    Image.fromarray(picture(GREY, GREY, GREY, BLUE)).save(folder / "b.png")
    return folder


def run(
    out: Path, images: Path, prebuilt: str, converted: str, **params: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Facts and events."""
    out.mkdir(exist_ok=True)
    told = out.parent / f"{out.name}.events"
    with told.open("wb") as sink:
        facts = compare.run(
            complete_params(params, compare.PARAMS, "compare"),
            {
                "prebuilt": FIXTURES / f"{prebuilt}.tflite",
                "converted": FIXTURES / f"{converted}.tflite",
                "images": images,
            },
            out,
            Emitter(EventStream(os.dup(sink.fileno())), "c"),
        )
    return facts, [json.loads(line) for line in told.read_text().splitlines()]


def test_two_exports_of_one_detector(tmp_path: Path, images: Path) -> None:
    facts, events = run(tmp_path / "out", images, "toy_centernet_annotated", "toy_ssd_annotated")
    assert facts["score_threshold"] == 0.2
    assert {name: item["pairs"] for name, item in facts["images"].items()} == {
        "a.png": 2,
        "b.png": 1,
    }
    overall = facts["overall"]
    assert (overall["pairs"], overall["missed"], overall["extra"]) == (3, 0, 0)
    assert overall["min_iou"] == pytest.approx(1, abs=1e-4)
    assert overall["max_score_difference"] < 1e-5
    assert not [event for event in events if event["event"] == "warning"]
    assert facts["inputs"]["prebuilt"] == {"height": 8, "width": 8, "type": "float32"}
    written = json.loads((tmp_path / "out" / compare.RESULT_FILE).read_text())
    assert written["overall"] == overall
    json.dumps(facts, allow_nan=False)


def test_quantised_against_float(tmp_path: Path, images: Path) -> None:
    overall = run(tmp_path / "out", images, "toy_ssd_annotated", "toy_ssd_uint8_annotated")[0][
        "overall"
    ]
    assert (overall["pairs"], overall["missed"], overall["extra"]) == (3, 0, 0)
    assert 0 < overall["max_score_difference"] < 0.02
    assert 0.95 < overall["min_iou"] <= overall["mean_iou"] <= 1


def test_one_that_finds_nothing(tmp_path: Path, images: Path) -> None:
    """The seed's metadata has the wrong normalisation: the scores stay below the threshold."""
    facts, events = run(
        tmp_path / "out", images, "toy_ssd_annotated", "toy_ssd_seed", score_threshold=0.5
    )
    assert facts["overall"]["missed"] > facts["overall"]["pairs"]
    (told,) = [event for event in events if event["event"] == "warning"]
    assert f"{facts['overall']['missed']} only in the first" in told["message"]
    written = json.loads((tmp_path / "out" / compare.RESULT_FILE).read_text())
    missed = written["images"]["b.png"]["missed"]
    assert [item["label"] for item in missed] == ["blue"]
    assert missed[0]["score"] > 0.5


def test_nothing_in_an_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(tmp_path / "images" / "grey.png")
    facts, _ = run(
        tmp_path / "out", tmp_path / "images", "toy_ssd_annotated", "toy_centernet_annotated"
    )
    assert facts["overall"] == {
        "pairs": 0, "mean_iou": None, "min_iou": None, "max_score_difference": None,
        "missed": 0, "extra": 0,
    }  # fmt: skip


def test_a_score_beside_the_threshold_is_not_a_difference() -> None:
    box = [0.0, 0.0, 0.5, 0.5]
    above = [{"box": box, "score": 0.201, "class_id": 1}]
    below = [{"box": box, "score": 0.199, "class_id": 1}]
    result = compare.compare(above, below, 0.2)
    assert (len(result["ious"]), result["missed"], result["extra"]) == (1, [], [])
    alone = compare.compare(above, [], 0.2)
    assert (alone["ious"], alone["missed"], alone["extra"]) == ([], above, [])
    assert compare.compare([], above, 0.2)["extra"] == above


@pytest.mark.parametrize("threshold", [-0.1, 1.1, True, "0.5", float("nan"), None])
def test_a_threshold_that_is_none(tmp_path: Path, images: Path, threshold: Any) -> None:
    with pytest.raises(StageError, match="score_threshold"):
        run(
            tmp_path / "out", images, "toy_ssd_annotated", "toy_ssd_annotated",
            score_threshold=threshold,
        )  # fmt: skip
