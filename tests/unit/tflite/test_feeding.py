"""How to feed a file: what it states itself, in ``kiln inspect`` and ``kiln diff``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from feeding_files import LETTERBOX, STRETCH, with_feeding
from hypothesis import given
from hypothesis import strategies as st
from tflite_files import fixture, rewritten

from kiln.core.untrusted import MalformedError
from kiln.tflite.diff import compare
from kiln.tflite.feeding import Feeding, parse
from kiln.tflite.inspect import Inspection, inspect

ANNOTATED = fixture("toy_ssd_annotated")


def line(found: Inspection) -> str:
    """The report's line about feeding, put together again where it was folded."""
    words = " ".join(found.text().split())
    return words.partition("how to feed ")[2].partition(" signature serving_default")[0]


@pytest.mark.parametrize(
    ("feeding", "words"),
    [
        (
            LETTERBOX,
            "letterbox to 8x8: keep the proportions, top left, rest filled with 0,0,0; "
            "TensorFlow 1's sampling",
        ),
        (
            {**LETTERBOX, "fill": [123.675, 116, 104], "sampling": "half-pixel"},
            "letterbox to 8x8: keep the proportions, top left, rest filled with 123.675,116,104",
        ),
        (STRETCH, "stretch to 8x8: scale each side by itself"),
        (
            {**STRETCH, "interpolation": "nearest", "sampling": "corner"},
            "stretch to 8x8: scale each side by itself; nearest pixel; TensorFlow 1's sampling",
        ),
    ],
)
def test_a_file_that_says_it(feeding: dict[str, Any], words: str) -> None:
    found = inspect(with_feeding(ANNOTATED, feeding))
    assert line(found) == words
    assert found.as_json()["feeding"] == feeding
    assert found.warnings == ()


def test_a_file_that_does_not_say_it() -> None:
    found = inspect(ANNOTATED)
    assert line(found) == "not said in the file: stretch is what Task Library and MediaPipe do"
    assert found.as_json()["feeding"] is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b"\xff", "is not valid JSON"),
        (b"{" + b" " * 5_000 + b"}", "is larger than 4,096 bytes"),
        (b'{"fit":' + b"[" * 2_000 + b"]" * 2_000 + b"}", "nests deeper"),
        ({}, "does not say: anchor, fill, fit, interpolation, sampling"),
        ({**LETTERBOX, "colours": "bgr"}, "says more than"),
        ({**LETTERBOX, "fit": "crop"}, "has another fit than letterbox, stretch"),
        ({**LETTERBOX, "fit": ["letterbox"]}, "has another fit than"),
        ({**LETTERBOX, "sampling": None}, "has another sampling than"),
        ({**LETTERBOX, "interpolation": "\x1b[2J"}, "has another interpolation than"),
        ({**LETTERBOX, "anchor": "centre"}, "has another anchor than top-left"),
        ({**LETTERBOX, "fill": None}, "three numbers from 0 to 255"),
        ({**LETTERBOX, "fill": [0, 0]}, "three numbers"),
        ({**LETTERBOX, "fill": [0, 0, 256]}, "three numbers"),
        ({**LETTERBOX, "fill": [0, 0, -1]}, "three numbers"),
        ({**LETTERBOX, "fill": [0, 0, True]}, "three numbers"),
        ({**LETTERBOX, "fill": [0, 0, "0"]}, "three numbers"),
        ({**STRETCH, "fill": [0, 0, 0]}, "stretches, but has"),
        ({**STRETCH, "anchor": "top-left"}, "stretches, but has"),
    ],
)
def test_a_broken_description_is_a_warning(content: dict[str, Any] | bytes, why: str) -> None:
    found = inspect(with_feeding(ANNOTATED, content))
    (warning,) = found.warnings
    assert warning.startswith("how to feed it cannot be read: feeding.json ")
    assert why in warning
    assert line(found) == "feeding.json cannot be read"
    assert found.as_json()["feeding"] is None
    assert "\x1b" not in found.text()


def test_a_description_that_was_damaged() -> None:
    data = with_feeding(ANNOTATED, LETTERBOX)
    place = data.index(b'"letterbox"')
    found = inspect(data[:place] + b'"letterBox"' + data[place + 11 :])
    assert any("how to feed it cannot be read" in text for text in found.warnings)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=9), st.lists))
def test_any_value_is_read_or_refused(value: Any) -> None:
    for name in LETTERBOX:
        content = json.dumps({**LETTERBOX, name: value}).encode()
        try:
            assert isinstance(parse(content), Feeding)
        except MalformedError as error:
            assert str(error)


def test_an_input_that_is_no_picture_is_not_fed() -> None:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shape = [1, 192]
        graph.tensors[graph.inputs[0]].shapeSignature = None

    assert "how to feed" not in inspect(rewritten(ANNOTATED, change)).text()


# --- kiln diff ----------------------------------------------------------------------------


def test_only_the_feeding_differs() -> None:
    found = compare(with_feeding(ANNOTATED, LETTERBOX), with_feeding(ANNOTATED, STRETCH))
    assert found.same_model
    assert found.verdict == (
        "same graph and weights; only how to feed it and the packed files differ"
    )
    (section,) = [item for item in found.sections if item.name == "feeding"]
    assert section.lines(None) == [
        "how to feed it",
        "  fit: 'letterbox' -> 'stretch'",
        "  anchor: 'top-left' -> none",
        "  fill: 0, 0, 0 -> none",
        "  sampling: 'corner' -> 'half-pixel'",
    ]


def test_only_one_says_how_to_feed_it() -> None:
    found = compare(ANNOTATED, with_feeding(ANNOTATED, STRETCH))
    assert "how to feed it (only in B)" in found.verdict
    assert "  stated only in B" in found.text().splitlines()


def test_the_same_feeding_in_other_bytes_is_no_difference_of_feeding() -> None:
    spaced = json.dumps(LETTERBOX, indent=4, sort_keys=True).encode()
    found = compare(with_feeding(ANNOTATED, LETTERBOX), with_feeding(ANNOTATED, spaced))
    assert [item.name for item in found.sections] == ["packed", "bytes"]
