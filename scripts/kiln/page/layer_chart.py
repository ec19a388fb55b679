"""Draw what each layer of a model loses in int8: an SVG file that needs no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from kiln.core.plain_text import plain

_ROW, _BAR, _TOP, _BARS, _LABELS = 16, 11, 54, 300, 620
"""Heights of a row and of a bar, space above them, widths of the longest bar and of the labels, in
pixels."""

_LONGEST_NAME = 96
"""Characters of a layer's name that are shown; its tooltip has all of them."""

_STYLE = """\
text { font: 11px system-ui, sans-serif; fill: #1b1b1b; }
.title { font-size: 15px; font-weight: 600; }
.quiet { fill: #5a5a5a; }
.bar { fill: #4878a8; }
.over { fill: #b8552f; }
.line { stroke: #5a5a5a; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) {
  svg { background: #161616; }
  text { fill: #e8e8e8; }
  .quiet { fill: #a8a8a8; }
}
"""


class Bar(NamedTuple):
    """One layer: its ``name``, its kind of ``operator``, and its error in ``steps``."""

    name: str
    operator: str
    steps: float


def draw(title: str, bars: Sequence[Bar], rounding: float) -> str:
    """Draw layers from the top in the given order.

    Args:
        title: shown above.
        bars: at least one.
        rounding: the error of rounding alone, in steps. It is marked, and bars of more than twice
            as much stand out.
    """
    longest = max([*(bar.steps for bar in bars), 2 * rounding])
    height = _TOP + _ROW * len(bars) + 12
    width = _LABELS + _BARS + 80
    mark = _LABELS + _BARS * rounding / longest
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="8" y="22">{_shown(title)}</text>',
        '<text class="quiet" x="8" y="40">Error of each layer in int8, in steps of its output, '
        f"in the order of execution. Dashed: rounding alone, {rounding:.2f}.</text>",
        f'<line class="line" x1="{mark:.1f}" x2="{mark:.1f}" y1="{_TOP - 6}" y2="{height - 8}"/>',
    ]
    for number, bar in enumerate(bars):
        lines += _row(bar, _TOP + number * _ROW, longest, rounding)
    return "\n".join([*lines, "</svg>", ""])


def _row(bar: Bar, top: int, longest: float, rounding: float) -> list[str]:
    length = _BARS * bar.steps / longest
    kind = "over" if bar.steps > 2 * rounding else "bar"
    name = bar.name
    if len(name) > _LONGEST_NAME:  # the last part tells layers apart
        name = f"…{name[1 - _LONGEST_NAME :]}"
    return [
        f"<g><title>{_shown(bar.name)} ({_shown(bar.operator)}): {bar.steps:.2f}</title>",
        f'<text x="{_LABELS - 8}" y="{top + 10}" text-anchor="end">{_shown(name)}</text>',
        f'<rect class="{kind}" x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}"/>',
        f'<text class="quiet" x="{_LABELS + length + 5:.1f}" y="{top + 10}">{bar.steps:.2f}</text>'
        "</g>",
    ]


def _shown(text: str) -> str:
    return escape(plain(text))
