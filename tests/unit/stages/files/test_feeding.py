from __future__ import annotations

import json
from typing import Any

import pytest

from stages.files import feeding

LETTERBOX = feeding.letterbox((127.5, 127.5, 127.5), "corner")
FACT = {
    "fit": "letterbox",
    "anchor": "top-left",
    "fill": [127.5, 127.5, 127.5],
    "sampling": "corner",
    "interpolation": "bilinear",
}


def test_as_fact_and_back() -> None:
    assert LETTERBOX.as_fact() == FACT
    assert feeding.read(FACT) == LETTERBOX
    stretched = feeding.Feeding(interpolation="nearest")
    assert stretched.as_fact()["fill"] is stretched.as_fact()["anchor"] is None
    for how in (LETTERBOX, stretched, feeding.ASSUMED):
        assert feeding.read(json.loads(how.as_file())) == feeding.parse(how.as_file()) == how


@pytest.mark.parametrize(
    "change",
    [
        {"fit": "crop"},
        {"anchor": "centre"},
        {"anchor": None},
        {"fill": None},
        {"fill": [0, 0]},
        {"fill": [0, 0, 256]},
        {"fill": [0, 0, float("nan")]},
        {"fill": [0, 0, True]},
        {"fill": "000"},
        {"fit": "stretch"},  # has a filling
        {"sampling": "centre"},
        {"interpolation": "lanczos"},
        {"rotate": 90},
    ],
)
def test_other_descriptions_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="feed"):
        feeding.read({**FACT, **change})


@pytest.mark.parametrize("value", [None, [], "stretch", {}, {"fit": "stretch"}])
def test_what_is_no_description(value: Any) -> None:
    with pytest.raises(ValueError, match="fields"):
        feeding.read(value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json(content: bytes) -> None:
    with pytest.raises(ValueError, match="JSON"):
        feeding.parse(content)


def test_a_filling_is_a_pixel() -> None:
    assert feeding.letterbox((-3.0, 300.0, 12.5)).fill == (0.0, 255.0, 12.5)


def test_the_usual_way() -> None:
    assert feeding.usual("stretch", LETTERBOX) == feeding.ASSUMED
    assert feeding.usual("letterbox", feeding.ASSUMED).fill == (0.0, 0.0, 0.0)
    assert feeding.usual("letterbox", LETTERBOX) == feeding.letterbox((127.5,) * 3)


def test_the_sentence() -> None:
    text = LETTERBOX.sentence(480, 640)
    assert "letterboxed" in text and "640 x 480" in text and "127.5, 127.5, 127.5" in text
    assert "TensorFlow 1" in text
    text = feeding.ASSUMED.sentence(300, 300)
    assert "stretched to 300 x 300" in text and "image libraries" in text
