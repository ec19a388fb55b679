"""What the stages for SavedModels compute without TensorFlow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.files.normalizations import Normalization, three
from stages.gates.result import Gate
from stages.gates.stated_normalization import confirmed, examine
from stages.protocol.failures import StageError
from stages.saved.saved_model_detector import decode, select
from stages.saved.saved_model_graph import Postprocess, SavedGraph
from stages.saved.saved_model_statistics import divergence
from stages.steps.saved_model import _differences, _normalization, _num_classes, _read

SCALES = (10.0, 10.0, 5.0, 5.0)


def said(**changes: Any) -> Postprocess:
    values: dict[str, Any] = {
        "functions": ("f",),
        "num_classes": 2,
        "max_detections": 10,
        "score_threshold": 0.1,
        "iou_threshold": 0.5,
        "scales": SCALES,
        "use_regular_nms": False,
        "detections_per_class": 100,
    }
    return Postprocess(**{**values, **changes})


def test_decode_undoes_the_box_coder() -> None:
    """Against Faster R-CNN's encoding of known boxes, which the API's box coder writes."""
    anchors = np.array([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.5, 0.1]], np.float64)
    boxes = np.array([[0.1, 0.2, 0.6, 0.9], [0.25, 0.5, 0.4, 0.8]], np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sizes = boxes[:, 2:] - boxes[:, :2]
    encoded = np.concatenate(
        [
            (centres - anchors[:, :2]) / anchors[:, 2:] * 10,
            np.log(sizes / anchors[:, 2:]) * 5,
        ],
        axis=1,
    )
    found = decode(encoded.astype(np.float32), anchors.astype(np.float32), SCALES)
    assert found.dtype == np.float32
    assert found == pytest.approx(boxes, abs=1e-6)


BOXES = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.2, 0.2]], np.float32)
SCORES = np.array([[0.9, 0.3], [0.2, 0.8], [0.05, 0.6]], np.float32)


def test_select_suppresses_across_classes() -> None:
    assert select(BOXES, SCORES, said()) == [(0, 0), (2, 1)]


def test_select_by_class() -> None:
    regular = said(use_regular_nms=True)
    assert select(BOXES, SCORES, regular) == [(0, 0), (1, 1), (2, 1)]
    assert select(BOXES, SCORES, said(use_regular_nms=True, max_detections=2)) == [(0, 0), (1, 1)]
    one = said(use_regular_nms=True, detections_per_class=1)
    assert select(BOXES, SCORES, one) == [(0, 0), (1, 1)]


def test_divergence() -> None:
    same = divergence(
        np.array([1.0, 2.0]), np.array([4.0, 9.0]), np.array([1, 2]), np.array([4, 9])
    )
    assert same == pytest.approx(0.0, abs=1e-9)
    # Half the spread: (ln 4 + 1/4 - 1) / 2; a mean one deviation away adds a half.
    other = divergence(np.array([3.0]), np.array([1.0]), np.array([1.0]), np.array([4.0]))
    assert other == pytest.approx((np.log(4) + 0.25 - 1) / 2 + 0.5, abs=1e-5)
    dead = divergence(np.array([0.0]), np.array([0.0]), np.array([0.0]), np.array([0.0]))
    assert dead == pytest.approx(0.0, abs=1e-9)


# --- what was said of the normalisation --------------------------------------------------------

MINUS_ONE = three((127.5,), (127.5,))
ZERO_ONE = three((0.0,), (255.0,))
RAW = three((0.0,), (1.0,))
LITE = three((127.0,), (128.0,))


def tried(**distances: float) -> list[dict[str, Any]]:
    norms = {"minus_one": MINUS_ONE, "zero_one": ZERO_ONE, "raw": RAW, "lite": LITE}
    return [{**norms[name].as_fact(), "distance": value} for name, value in distances.items()]


def judged(found: list[dict[str, Any]], norm: Normalization) -> tuple[Gate, str]:
    gate = Gate("normalization")
    return gate, examine(gate, found, norm)


def test_the_right_one_is_confirmed() -> None:
    found = tried(minus_one=0.3, lite=0.31, zero_one=1.3, raw=3e4)
    gate, whose = judged(found, MINUS_ONE)
    assert gate.problems == []
    assert "confirms it" in whose
    assert confirmed(found, MINUS_ONE)


def test_a_wrong_one_is_named_with_the_right_one() -> None:
    found = tried(minus_one=0.3, lite=0.31, zero_one=1.3, raw=3e4)
    for wrong in (ZERO_ONE, RAW):
        gate, _ = judged(found, wrong)
        (problem,) = gate.problems
        assert "127.5/127.5" in problem.expected
        assert "127/128" not in problem.expected  # the same within a pixel value
        assert "0/255" not in problem.expected
        assert wrong.shown() in problem.seen
        assert not confirmed(found, wrong)


def test_a_pixel_value_more_or_less_is_no_mistake() -> None:
    gate, whose = judged(tried(lite=0.01, minus_one=0.3, zero_one=1.3), MINUS_ONE)
    assert gate.problems == []
    assert "confirms it" in whose


def test_statistics_of_no_training_tell_only_what_is_hopeless() -> None:
    found = tried(zero_one=5.4, lite=6.6, minus_one=6.7, raw=7e4)
    for norm in (MINUS_ONE, ZERO_ONE):
        gate, whose = judged(found, norm)
        assert gate.problems == []
        assert "nothing in the graph confirms it" in whose
    gate, _ = judged(found, RAW)
    assert "0/255" in gate.problems[0].expected
    assert "127/128" in gate.problems[0].expected


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ({"mean": [127.5], "std": [127.5]}, MINUS_ONE),
        ({"mean": [127.5] * 3, "std": [127.5]}, MINUS_ONE),
        (None, None),
        ({"mean": [1, 2], "std": [1]}, None),
        ({"mean": [0], "std": [0]}, None),
        ({"mean": ["x"], "std": [1]}, None),
        ({"mean": [0]}, None),
    ],
)
def test_what_a_folder_says_of_itself(value: Any, right: Any) -> None:
    assert _read(value) == right


# --- who says how it wants its pixels ----------------------------------------------------------

LEFT = {"normalization": {"mean": [127.5], "std": [127.5]}}


def graph(postprocess: Postprocess | None) -> SavedGraph:
    return SavedGraph(
        proto=None,
        input="image:0",
        height=64,
        width=64,
        outputs={},
        max_detections=10,
        postprocess=postprocess,
        batch_norms=3,
    )


@pytest.mark.parametrize(
    ("given", "left", "ends", "expected"),
    [
        ({"mean": [0], "std": [255]}, {}, said(), (ZERO_ONE, "given")),
        (None, LEFT, said(), (MINUS_ONE, "export.json")),
        ({"mean": [127.5] * 3, "std": [127.5]}, LEFT, said(), (MINUS_ONE, "export.json")),
        (None, {}, None, (RAW, "graph")),
    ],
)
def test_who_is_asked(given: Any, left: Any, ends: Any, expected: Any) -> None:
    assert _normalization(given, left, graph(ends), None, (64, 64)) == expected


@pytest.mark.parametrize(
    ("given", "left", "ends", "words"),
    [
        (None, {}, said(), ["--pipeline-config", "--mean 127.5 --std 127.5"]),
        (None, {"normalization": "?"}, said(), ["--pipeline-config"]),
        (
            {"mean": [0], "std": [255]},
            LEFT,
            said(),
            ["wants mean/std 127.5/127.5", "not mean/std 0/255", "Give --mean 127.5 --std 127.5"],
        ),
        ({"mean": [127.5], "std": [127.5]}, {}, None, ["mean/std 0/1", "inside its graph"]),
    ],
)
def test_what_is_not_known_or_contradicts(
    given: Any, left: Any, ends: Any, words: list[str]
) -> None:
    with pytest.raises(StageError) as caught:
        _normalization(given, left, graph(ends), None, (64, 64))
    assert caught.value.kind == "unsupported-model"
    for word in words:
        assert word in f"{caught.value.message} {caught.value.remedy}"


class Config:
    """A ``pipeline.config`` of an architecture and a number of classes."""

    def __init__(self, architecture: str, classes: int) -> None:
        self.model = self
        self._architecture = architecture
        setattr(self, architecture, SimpleNamespace(num_classes=classes))

    def WhichOneof(self, _: str) -> str:  # noqa: N802 (protobuf's name)
        return self._architecture


def test_how_many_classes(tmp_path: Path) -> None:
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("item { id: 1 name: 'cat' }\nitem { id: 5 name: 'dog' }\n")
    assert _num_classes(graph(said()), labels, None) == 2
    assert _num_classes(graph(None), labels, None) == 5
    assert _num_classes(graph(None), labels, Config("center_net", 7)) == 7
    for ends, config in ((said(), Config("ssd", 3)), (None, Config("ssd", 5))):
        with pytest.raises(StageError, match=r"pipeline\.config is not this SavedModel's"):
            _num_classes(graph(ends), labels, config)


def test_differences_that_our_own_export_left() -> None:
    """Without a configuration nothing else can tell; what the folder says is not trusted."""
    told = {"what": "input size", "config": "300x300", "built": "64x64", "effect": "Worse."}
    assert _differences(graph(said()), None, {"differences": [told]}) == [told]
    assert _differences(graph(said()), None, {}) == []
    for odd in ("x", [3], [{**told, "more": "x"}], [{**told, "effect": 3}], {"what": "x"}):
        assert _differences(graph(said()), None, {"differences": odd}) == []
