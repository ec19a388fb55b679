"""The drawing of what layers lose."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from kiln.page.layer_chart import Bar, draw

SVG = "{http://www.w3.org/2000/svg}"
ROUNDING = 0.2887


def _bars(text: str) -> list[tuple[str, float]]:
    """The class and the width of every bar, from the top."""
    found = ET.fromstring(text).iter(f"{SVG}rect")
    bars = [
        (float(rect.get("y", "")), rect.get("class", ""), rect.get("width", "")) for rect in found
    ]
    assert bars == sorted(bars)
    return [(kind, float(width)) for _, kind, width in bars]


def test_bars_are_as_long_as_errors_are_large() -> None:
    text = draw("toy", [Bar("a", "ADD", 0.3), Bar("b", "CONV_2D", 3.0), Bar("c", "ADD", 0.6)], 0.29)
    (first, short), (second, long), (third, middle) = _bars(text)
    assert (first, second, third) == ("bar", "over", "over")
    assert long == pytest.approx(10 * short, rel=0.01)
    assert long == pytest.approx(5 * middle, rel=0.01)


def test_small_errors_do_not_look_large() -> None:
    ((kind, length),) = _bars(draw("toy", [Bar("a", "ADD", ROUNDING)], ROUNDING))
    assert kind == "bar"
    ((_, longest),) = _bars(draw("toy", [Bar("a", "ADD", 1.0)], ROUNDING))
    assert length == pytest.approx(longest / 2)


def test_names_are_text_whatever_they_hold() -> None:
    hostile = '</text><script>alert("1")</script>\u202e\x00&' + "x" * 200
    text = draw(hostile, [Bar(hostile, hostile, 1.0)], ROUNDING)
    root = ET.fromstring(text)
    assert not list(root.iter(f"{SVG}script"))
    assert "\u202e" not in text
    titles = [item.text or "" for item in root.iter(f"{SVG}title")]
    assert len(titles) == 1
    assert titles[0].startswith('</text><script>alert("1")</script>')
    labels = [item.text or "" for item in root.iter(f"{SVG}text")]
    assert any(label.startswith("…") and label.endswith("xx") for label in labels)


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = draw("toy", [Bar("a", "ADD", 1.0)], ROUNDING)
    assert text.count("http") == 1  # the name space
    assert "url(" not in text
