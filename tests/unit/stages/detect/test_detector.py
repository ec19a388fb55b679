"""Reading a detector's outputs: the rows that its count names, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import BLUE, GREEN, GREY, RED, picture
from tflite_files import fixture, with_own_threshold

from stages.detect import detector
from stages.protocol.failures import StageError
from stages.tflite import decoding, packed_files, tflite_meta, tflite_model

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def toy() -> detector.Detector:
    return detector.Detector(fixture("toy_ssd_annotated"))


def outputs(count: float, rows: int = 4, filled: int = 4, rest: float = 0.0) -> dict[str, Any]:
    """Outputs of ``rows`` rows: the first ``filled`` are detections, ``rest`` is in the others."""
    boxes = np.full((1, rows, 4), rest, np.float32)
    boxes[0, :filled] = [0.0, 0.0, 0.5, 0.5]
    classes, scores = (np.full((1, rows), rest, np.float32) for _ in range(2))
    classes[0, :filled], scores[0, :filled] = 1.0, 0.75
    return {
        tflite_meta.LOCATION: boxes,
        tflite_meta.CATEGORY: classes,
        tflite_meta.SCORE: scores,
        tflite_meta.COUNT: np.array([count], np.float32),
    }


@pytest.mark.parametrize("rest", [float("nan"), float("inf"), -1e30, 0.9])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_behind_the_count_do_not_exist(
    toy: detector.Detector, rest: float, count: int
) -> None:
    found = toy.read(outputs(count, filled=count, rest=rest))
    assert [(item["label"], item["score"]) for item in found] == [("green", 0.75)] * count


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -1.0, 0.5, 4.5, 5.0, 1e30])
def test_a_count_that_is_none_is_named(toy: detector.Detector, count: float) -> None:
    with pytest.raises(detector.OutputError) as caught:
        toy.read(outputs(count))
    assert f"their count is {count:g}, not a whole number from 0 to 4" in caught.value.message
    assert (caught.value.code, caught.value.kind) == ("count", "unsupported-model")


@given(st.floats(width=32), st.integers(0, 1000))
def test_a_count_is_a_whole_number_within_its_bounds(count: float, capacity: int) -> None:
    try:
        found = detector.valid_count(np.array([count], np.float32), capacity)
    except detector.OutputError:
        assert count not in range(capacity + 1)
    else:
        assert type(found) is int
        assert found == count
        assert 0 <= found <= capacity


@pytest.mark.parametrize("name", [tflite_meta.LOCATION, tflite_meta.CATEGORY, tflite_meta.SCORE])
def test_a_row_that_exists_must_be_finite(toy: detector.Detector, name: str) -> None:
    given_outputs = outputs(2)
    given_outputs[name].reshape(-1)[1] = np.nan
    with pytest.raises(detector.OutputError, match="not finite") as caught:
        toy.read(given_outputs)
    assert caught.value.code == "not-finite"
    given_outputs[tflite_meta.COUNT][0] = 0
    assert toy.read(given_outputs) == []


def test_shapes_that_do_not_go_together(toy: detector.Detector) -> None:
    with pytest.raises(detector.OutputError, match="shapes") as caught:
        toy.read({**outputs(1), tflite_meta.SCORE: np.zeros((1, 3), np.float32)})
    assert caught.value.code == "shapes"


def test_two_threads_are_for_heavy_operators_and_large_inputs() -> None:
    data = fixture("toy_ssd_annotated")
    graph = tflite_model.read(data).graph
    heavy = bytes(100_000 * len(graph.operators))
    image = graph.tensors[graph.inputs[0]]
    large = replace(graph, tensors=(replace(image, shape=(1, 640, 640, 3)),), inputs=(0,))
    assert detector.threads(heavy, large) == 2
    assert detector.threads(heavy[1:], large) == detector.threads(heavy, graph) == 1


def test_a_model_with_a_threshold_of_its_own() -> None:
    strict = detector.Detector(with_own_threshold(fixture("toy_ssd_annotated"), 0.9))
    assert strict.capacity is None
    # Many first, then few: the rows in between are still in the interpreter's memory.
    found = strict.detect(picture(RED, GREEN, BLUE, RED))
    assert len(found) == strict.capacity == 4
    assert strict.end == found[-1]["score"] > 0.9
    (only,) = strict.detect(picture(GREY, GREY, GREY, BLUE))
    assert only["label"] == "blue"
    assert strict.end == 0
    assert strict.detect(picture(GREY, GREY, GREY, GREY)) == []


@pytest.fixture(scope="module")
def raw() -> detector.Detector:
    return detector.Detector(fixture("toy_raw_annotated"))


def test_raw_outputs_are_decoded(raw: detector.Detector) -> None:
    """Each box is a quarter: 0.05 lower and further left, higher by exp(0.1), narrower by it."""
    found = raw.detect(picture(RED, GREEN, BLUE, GREY), 0.5)
    assert [item["label"] for item in found] == ["red", "green", "blue"]
    high, wide = 0.25 * np.exp(0.1), 0.25 * np.exp(-0.1)
    for item, (y, x) in zip(found, ((0.3, 0.2), (0.3, 0.7), (0.8, 0.2)), strict=True):
        box = np.clip([y - high, x - wide, y + high, x + wide], 0, 1)
        np.testing.assert_allclose(item["box"], box, atol=1e-6)
    assert raw.capacity == 4
    assert raw.score_threshold is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoding.json": None}, "declared but not in the model"),
        ({"anchors.bin": None}, "declared but not in the model"),
        ({"anchors.bin": b"\0" * 64}, "does not hold the anchors"),
        ({"decoding.json": b"{}"}, "has not the fields"),
    ],
)
def test_raw_outputs_need_their_description(change: dict[str, Any], words: str) -> None:
    model, files = packed_files.split(fixture("toy_raw_annotated"))
    left = {name: data for name, data in {**files, **change}.items() if data is not None}
    with pytest.raises(StageError) as caught:
        detector.Detector(packed_files.pack(model, left))
    assert words in caught.value.message
    assert caught.value.kind == "unsupported-model"


def test_another_model_s_anchors() -> None:
    """Described as more anchors than the graph has boxes."""
    model, files = packed_files.split(fixture("toy_raw_annotated"))
    how = decoding.parse(files)
    more = replace(how, anchors=how.anchors * 2).as_files()
    other = detector.Detector(packed_files.pack(model, {**files, **more}))
    with pytest.raises(detector.OutputError, match="do not fit") as caught:
        other.detect(picture(RED, GREEN, BLUE, GREY))
    assert caught.value.code == "shapes"
