"""The chart of what a model's files cost and keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.page.contents import Latency, Variant
from kiln.page.document import render
from kiln.page.trade_off import TradeOff, trade_off


def variant(
    name: str, size: int | None, agreement: float | None, ms: float | None = None
) -> Variant:
    return Variant(
        name,
        f"toy_{name}.tflite",
        False,
        size,
        "",
        figures={} if agreement is None else {"agreement": agreement},
        latency=None if ms is None else Latency(ms, None, None, None, 1, "", ""),
    )


def chart(*variants: Variant) -> TradeOff:
    made = trade_off(variants)
    assert made is not None
    return made


def lengths(made: TradeOff) -> dict[str, list[float | None]]:
    return {name: [bar and bar.percent for bar in bars] for name, bars in made.rows}


def test_bars_are_parts_of_the_largest_and_agreement_of_one() -> None:
    made = chart(variant("float32", 20_000_000, 1.0, 50.0), variant("int8", 5_000_000, 0.93, 20.0))
    assert made.columns == ("Size", "Latency", "Agreement with the source")
    assert lengths(made) == {"float32": [100, 100, 100], "int8": [25, 40, 93]}
    words = [bar and bar.words for bar in made.rows[1][1]]
    assert words == ["5.0 MB", "20.0 ms", "0.9300"]


def test_a_column_without_figures_is_left_out() -> None:
    made = chart(variant("float32", 4, 1.0), variant("int8", 1, None))
    assert made.columns == ("Size", "Agreement with the source")
    assert lengths(made)["int8"] == [25, None]


def test_nothing_to_compare() -> None:
    assert trade_off([variant("float32", 4, 1.0, 2.0)]) is None
    assert trade_off([variant("float32", 4, None), variant("int8", 1, None)]) is None
    assert trade_off([]) is None


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0])
def test_figures_that_are_none_get_no_bar(odd: float) -> None:
    made = chart(variant("float32", 4, 0.5, odd), variant("int8", 0, 7.0, odd))
    assert made.columns == ("Size", "Agreement with the source")
    assert lengths(made) == {"float32": [100, 50], "int8": [0, 100]}


def test_it_is_on_the_page(dist: Path) -> None:
    page = render(dist)
    section = page[page.index("Size, speed and fidelity") : page.index("<h3>Checks</h3>")]
    assert section.count('<svg class="bar"') == 4  # size and agreement of two files
    assert "Latency" not in section
