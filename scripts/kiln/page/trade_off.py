"""Compare the files of one model by what they cost and keep: size, latency and agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kiln.page.contents import Variant
from kiln.page.formats import fixed, megabytes, share


@dataclass(frozen=True)
class Bar:
    """One figure of a file.

    Attributes:
        words: the figure.
        percent: length of its bar: of the largest figure in its column, 0 to 100.
    """

    words: str
    percent: float


@dataclass(frozen=True)
class TradeOff:
    """A chart: ``columns`` name the figures, ``rows`` have a bar for each, or ``None``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Bar | None, ...]], ...]


def trade_off(variants: Sequence[Variant]) -> TradeOff | None:
    """Return the chart; ``None`` where there is nothing to compare.

    A column without a figure is left out. Bars of agreement are parts of 1, others of the largest.
    """
    sizes = [variant.size for variant in variants]
    times = [None if item.latency is None else item.latency.median_ms for item in variants]
    agreements = [variant.figures.get("agreement") for variant in variants]
    columns = {
        "Size": _bars(sizes, max(_known(sizes), default=0), [megabytes(item) for item in sizes]),
        "Latency": _bars(
            times,
            max(_known(times), default=0),
            ["" if item is None else f"{fixed(item, 1)} ms" for item in times],
        ),
        "Agreement with the source": _bars(agreements, 1, [share(item) for item in agreements]),
    }
    shown = {name: bars for name, bars in columns.items() if any(bars)}
    if len(variants) < 2 or len(shown) < 2:
        return None
    rows = zip(
        [variant.name for variant in variants], zip(*shown.values(), strict=True), strict=True
    )
    return TradeOff(tuple(shown), tuple(rows))


def _known(figures: Sequence[float | None]) -> list[float]:
    """Return the figures that a bar can stand for; records may hold others."""
    return [item for item in figures if item is not None and math.isfinite(item) and item >= 0]


def _bars(
    figures: Sequence[float | None], most: float, words: Sequence[str]
) -> tuple[Bar | None, ...]:
    return tuple(
        Bar(text, round(min(100.0, 100 * item / most), 1))
        if item is not None and most > 0 and _known([item])
        else None
        for item, text in zip(figures, words, strict=True)
    )
