"""The detect stage on the toy detectors, run by their own metadata.

A quarter of the picture that is red, green or blue is class 1, 2 or 3 (see
``fixtures/make_toy_detectors.py``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from int8_toy import int8_toy
from pictures import BLUE, GREEN, GREY, RED, picture
from PIL import Image
from places import FIXTURES

from stages.detect import detector
from stages.files import feeding
from stages.protocol.events import Emitter, EventStream
from stages.protocol.failures import StageError
from stages.protocol.request import complete_params
from stages.steps import detect
from stages.tflite import packed_files

pytest.importorskip("ai_edge_litert")

LOGIT_4 = 1 / (1 + np.exp(-4.0))
"""The score of a pure colour: the toy's logit is 4 when the input is normalised rightly."""


def load(name: str) -> detector.Detector:
    return detector.load(FIXTURES / f"{name}.tflite")


@pytest.mark.parametrize(
    "name", ["toy_ssd_annotated", "toy_centernet_annotated", "toy_ssd_uint8_annotated"]
)
def test_finds_what_is_there_under_its_name(name: str) -> None:
    found = load(name).detect(picture(GREY, RED, BLUE, GREEN), score_threshold=0.5)
    assert {item["label"]: item["class_id"] for item in found} == {"red": 1, "green": 2, "blue": 3}
    boxes = {item["label"]: item["box"] for item in found}
    np.testing.assert_allclose(boxes["red"], [0.0, 0.5, 0.5, 1.0], atol=0.02)
    np.testing.assert_allclose(boxes["blue"], [0.5, 0.0, 1.0, 0.5], atol=0.02)
    np.testing.assert_allclose(boxes["green"], [0.5, 0.5, 1.0, 1.0], atol=0.02)
    # The exact score is what proves the normalisation.
    tolerance = 0.02 if "uint8" in name else 1e-5
    assert all(item["score"] == pytest.approx(LOGIT_4, abs=tolerance) for item in found)


def test_an_int8_input_finds_what_a_uint8_one_does() -> None:
    image = picture(GREY, RED, BLUE, GREEN)
    found = detector.Detector(int8_toy()).detect(image)
    assert found == load("toy_ssd_uint8_annotated").detect(image)


def test_seed_metadata_is_taken_at_its_word() -> None:
    found = load("toy_ssd_seed").detect(picture(RED, GREY, GREY, GREY), max_results=1)
    assert found[0]["label"].startswith("# The three classes")  # line 1 of the raw label map
    assert found[0]["score"] < 0.2  # 0..1 instead of -1..1


def test_order_limit_and_threshold() -> None:
    model = load("toy_ssd_annotated")
    image = picture(RED, GREEN, BLUE, GREY)
    everything = model.detect(image)
    assert everything == sorted(
        everything, key=lambda item: (-item["score"], item["class_id"], item["box"])
    )
    assert model.detect(image, max_results=2) == everything[:2]
    best = everything[0]["score"]
    assert model.detect(image, score_threshold=best)[0]["score"] == best
    assert model.detect(image, score_threshold=1.0) == []
    assert np.float32(best) == best or float(str(np.float32(best))) == best


def test_a_letterboxed_photograph_and_its_boxes() -> None:
    model = load("toy_ssd_annotated")
    assert model.feeding == feeding.ASSUMED  # the file does not say it
    # Twice as wide as high, the left half red.
    image = np.full((32, 64, 3), GREY, np.uint8)
    image[:, :32] = RED
    stretched = model.detect(image, score_threshold=0.5)
    assert [item["label"] for item in stretched] == ["red", "red"]  # in two quarters of the input
    model.feeding = feeding.letterbox(GREY)
    assert np.ptp(model.input_values(image)[0][4:]) == 0  # the lower half is filled
    [found] = model.detect(image, score_threshold=0.5)  # in one
    np.testing.assert_allclose(found["box"], [0, 0, 1, 0.5], atol=0.04)
    assert model.detect(image, score_threshold=0.5, how=feeding.ASSUMED) == stretched
    # An input-sized picture is the input.
    small = np.zeros((8, 8, 3), np.uint8)
    assert model.input_values(small)[0].tolist() == (np.zeros((8, 8, 3)) - 1).tolist()


def run(out: Path, images: Path, name: str = "toy_ssd_annotated", **params: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    with open(os.devnull, "w") as sink:  # noqa: PTH123 - a descriptor is what is needed
        emit = Emitter(EventStream(sink.fileno()), "d")
        inputs = {"model": FIXTURES / f"{name}.tflite", "images": images}
        return detect.run(complete_params(params, detect.PARAMS, "detect"), inputs, out, emit)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(picture(RED, GREY, GREY, GREY)).save(folder / "b.png")
    Image.fromarray(picture(GREY, GREY, GREY, BLUE)).save(folder / "a.png")
    return folder


def test_stage_writes_detections(tmp_path: Path, images: Path) -> None:
    facts = run(tmp_path / "1", images, score_threshold=0.5)
    text = (tmp_path / "1" / "detections.json").read_bytes()
    found = json.loads(text)["images"]
    assert list(found) == ["a.png", "b.png"]
    assert [item["label"] for item in found["a.png"]] == ["blue"]
    assert [item["label"] for item in found["b.png"]] == ["red"]
    assert set(found["a.png"][0]) == {"box", "score", "class_id", "label"}
    assert facts["images"] == facts["detections"] == 2
    assert facts["input"] == {"height": 8, "width": 8, "type": "float32"}
    assert facts["normalization"] == {"mean": [127.5], "std": [127.5]}
    json.dumps(facts)
    run(tmp_path / "2", images, score_threshold=0.5)
    assert (tmp_path / "2" / "detections.json").read_bytes() == text


def test_stage_takes_the_threshold_of_the_metadata(tmp_path: Path, images: Path) -> None:
    declared = run(tmp_path / "1", images, name="toy_centernet_annotated")
    assert (declared["score_threshold"], declared["detections"]) == (0.25, 2)
    assert declared["feeding"] == feeding.ASSUMED.as_fact()
    overruled = run(tmp_path / "2", images, name="toy_centernet_annotated", score_threshold=0)
    assert overruled["detections"] == 8


def test_stage_fits_images_as_it_is_told(tmp_path: Path) -> None:
    """A picture twice as wide as high, its left half red; the toy looks at quarters of its input.

    Stretched, red fills the two left quarters. Letterboxed, it fills one, and the box of that
    quarter is the left half of the picture.
    """
    folder = tmp_path / "images"
    folder.mkdir()
    wide = np.full((40, 80, 3), GREY, np.uint8)
    wide[:, :40] = RED
    Image.fromarray(wide).save(folder / "wide.png")
    boxes = {}
    for fit in (None, "stretch", "letterbox"):
        out = tmp_path / str(fit)
        facts = run(out, folder, score_threshold=0.9, fit=fit)
        assert facts["feeding"]["fit"] == (fit or "stretch")
        found = json.loads((out / "detections.json").read_bytes())["images"]["wide.png"]
        assert {item["label"] for item in found} == {"red"}
        boxes[fit] = sorted(item["box"] for item in found)
    assert boxes[None] == boxes["stretch"]
    np.testing.assert_allclose(boxes["stretch"], [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5]], atol=0.02)
    np.testing.assert_allclose(boxes["letterbox"], [[0, 0, 1, 0.5]], atol=0.04)


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"max_results": 0}, "stage-failed"),
        ({"max_results": 2.5}, "stage-failed"),
        ({"score_threshold": -1}, "stage-failed"),
        ({"score_threshold": "0.5"}, "stage-failed"),
        ({"fit": "crop"}, "stage-failed"),
        ({"fit": ["stretch"]}, "stage-failed"),
        ({"threads": 4}, "stage-failed"),
        ({"name": "toy_ssd"}, "unsupported-model"),
    ],
)
def test_stage_refuses(tmp_path: Path, images: Path, params: dict[str, Any], kind: str) -> None:
    with pytest.raises(StageError) as caught:
        run(tmp_path / "out", images, **params)
    assert caught.value.kind == kind
    assert list((tmp_path / "out").iterdir()) == []


def test_stage_names_a_damaged_image(tmp_path: Path, images: Path) -> None:
    (images / "c.png").write_bytes(b"not a picture")
    with pytest.raises(StageError) as caught:
        run(tmp_path / "out", images)
    assert caught.value.kind == "image-set"
    assert "c.png" in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_label_file_is_refused() -> None:
    bare, _ = packed_files.split((FIXTURES / "toy_ssd_annotated.tflite").read_bytes())
    with pytest.raises(StageError, match=r"labelmap\.txt"):
        detector.Detector(bare)


def test_labels_end_before_the_classes() -> None:
    bare, _ = packed_files.split((FIXTURES / "toy_ssd_annotated.tflite").read_bytes())
    model = detector.Detector(packed_files.pack(bare, {"labelmap.txt": b"red\n"}))
    found = model.detect(picture(GREY, GREY, GREY, BLUE), max_results=1)
    assert (found[0]["class_id"], found[0]["label"]) == (3, "???")


def test_truncated_models_are_refused() -> None:
    data = (FIXTURES / "toy_ssd_annotated.tflite").read_bytes()
    for size in (0, 7, 100, len(data) // 2, len(data) - 300):
        with pytest.raises(StageError) as caught:
            detector.Detector(data[:size])
        assert caught.value.kind == "unsupported-model"


def test_stage_feeds_in_another_way(tmp_path: Path, images: Path) -> None:
    facts = run(tmp_path / "1", images, fit="letterbox")
    assert facts["feeding"] == feeding.letterbox((0, 0, 0)).as_fact()
    assert run(tmp_path / "2", images, fit="stretch")["feeding"] == feeding.ASSUMED.as_fact()
