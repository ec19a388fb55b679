"""Detections drawn on previews: SVG over pictures that are embedded once each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kiln.page.contents import Detection, Picture
from kiln.page.differences import CHANGED, EXTRA, MISSED, SAME, Drawn
from kiln.page.markup import Html, el, join
from kiln.project.stagecode import stage_module

#: Length of a drawing's longer side in its own units: sizes below do not depend on the picture.
SIDE = 640.0
_TEXT, _PLATE, _MARGIN, _LINE = 29.0, 38.0, 7.0, 4.0

#: Before the name of what differs from the source: never told by colour alone.
_SIGNS = {SAME: "", CHANGED: "≠ ", EXTRA: "+ ", MISSED: "− "}

#: Characters that are much narrower or wider than others.
_NARROW, _WIDE = frozenset("fijlrt.,:;'|!()[]I1 -"), frozenset("mwMW%@+≠−")

_FULL_WIDTH = 0x2E80  # from here on most scripts are as wide as high

_Corners = tuple[float, float, float, float]  # left, top, right, bottom in drawing units


class Store:
    """The pictures of a page, each kept once however many models share it."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, float, float], int] = {}

    def reference(self, picture: Picture) -> Html:
        """Markup that shows ``picture`` inside an SVG of its size (see :func:`size_of`)."""
        width, height = size_of(picture)
        number = self._numbers.setdefault((picture.uri, width, height), len(self._numbers))
        return el("use", href=f"#picture-{number}", width=_short(width), height=_short(height))

    def definitions(self) -> Html:
        """The pictures themselves, to stand in the page before they are shown."""
        symbols = [
            el(
                "symbol",
                el(
                    "image",
                    href=uri,
                    width=_short(width),
                    height=_short(height),
                    preserveAspectRatio="none",
                ),
                id=f"picture-{number}",
                viewBox=_view(width, height),
            )
            for (uri, width, height), number in self._numbers.items()
        ]
        return join(symbols, "\n")


def size_of(picture: Picture) -> tuple[float, float]:
    """Width and height of a picture in drawing units."""
    scale = SIDE / max(picture.width, picture.height)
    return picture.width * scale, picture.height * scale


def plain_view(picture: Picture, store: Store) -> Html:
    """The picture alone, for thumbnails; its name is said elsewhere."""
    return el("svg", store.reference(picture), viewBox=_view(*size_of(picture)), aria_hidden="true")


def draw(picture: Picture, store: Store, drawn: Sequence[Drawn], title: str) -> Html:
    """The picture with detections on it.

    Args:
        picture: what is below.
        store: keeps it.
        drawn: best score first; the best one ends up on top.
        title: the drawing's name for those who do not see it.
    """
    size = size_of(picture)
    plates = _Plates(size)
    groups = [_detection(item, size, plates) for item in drawn]
    return el(
        "svg",
        store.reference(picture),
        # Reversed: what comes last in an SVG is on top. Names come after all the boxes.
        [box for box, _ in reversed(groups)],
        [name for _, name in reversed(groups)],
        class_="shot",
        viewBox=_view(*size),
        role="img",
        aria_label=title,
    )


def in_words(detections: Iterable[Detection]) -> str:
    """Names and scores, for a drawing's accessible name."""
    return ", ".join(f"{d['label']} {d['score']:.2f}" for d in detections) or "nothing"


class _Plates:
    """Places for names: above their boxes where there is room, never one on another if possible."""

    def __init__(self, size: tuple[float, float]) -> None:
        self._size = size
        self._taken: list[tuple[float, float, float]] = []

    def place(self, width: float, corners: _Corners) -> tuple[float, float]:
        left, top, _, bottom = corners
        x = max(0.0, min(left, self._size[0] - width))
        lowest = max(0.0, self._size[1] - _PLATE)
        wishes = (top - _PLATE, top, bottom - _PLATE, bottom, top - 2 * _PLATE, top + _PLATE)
        places = [min(max(0.0, wish), lowest) for wish in wishes]
        y = next((y for y in places if self._free(x, y, width)), places[0])
        self._taken.append((x, y, width))
        return x, y

    def _free(self, x: float, y: float, width: float) -> bool:
        return not any(
            x < left + length and left < x + width and abs(y - top) < _PLATE
            for left, top, length in self._taken
        )


def _detection(item: Drawn, size: tuple[float, float], plates: _Plates) -> tuple[Html, Html]:
    found = item.detection
    red, green, blue = stage_module("files.drawing").color(found["class_id"])
    paint = f"#{red:02x}{green:02x}{blue:02x}"
    ymin, xmin, ymax, xmax = (min(max(float(value), 0.0), 1.0) for value in found["box"])
    corners = (
        min(xmin, xmax) * size[0], min(ymin, ymax) * size[1],
        max(xmin, xmax) * size[0], max(ymin, ymax) * size[1],
    )  # fmt: skip
    score = f"{found['score']:.3f}"
    lines = [_outline(corners, f"edge {item.kind}")]
    lines.append(_outline(corners, f"box {item.kind}", stroke=paint))
    if item.kind != SAME:
        lines.append(_outline(corners, "alarm"))
    name, width = _fitted(f"{_SIGNS[item.kind]}{found['label']}", f" {found['score']:.2f}", size[0])
    x, y = plates.place(width, corners)
    ink = "#000" if _luminance(red, green, blue) > 0.179 else "#fff"
    plate = [
        el(
            "rect",
            x=_short(x),
            y=_short(y),
            width=_short(width),
            height=_short(min(_PLATE, size[1])),
            fill=paint,
            class_="plate" if item.kind == SAME else "plate differs",
        ),
        el(
            "text",
            name,
            x=_short(x + _MARGIN),
            y=_short(y + _PLATE - 10),
            fill=ink,
            textLength=_short(width - 2 * _MARGIN),
            lengthAdjust="spacingAndGlyphs",
        ),
    ]
    return el("g", lines, data_score=score), el("g", plate, data_score=score)


def _outline(corners: _Corners, kind: str, **paint: str) -> Html:
    left, top, right, bottom = corners
    inset = _LINE / 2  # a line is as wide outside as inside: boxes at the edge stay whole
    return el(
        "rect",
        x=_short(min(left + inset, right)),
        y=_short(min(top + inset, bottom)),
        width=_short(max(right - left - _LINE, 1)),
        height=_short(max(bottom - top - _LINE, 1)),
        class_=kind,
        **paint,
    )


def _fitted(name: str, score: str, widest: float) -> tuple[str, float]:
    """The text of a plate, shortened until it fits into the picture, and the plate's width."""
    shown = name
    if len(name) > 1 and _width(name + score) > widest:
        room = (widest - _width("…" + score)) / _TEXT
        kept, used = 0, 0.0
        for place, char in enumerate(name[:-2], 1):
            used += _advance(char)
            if used > room:
                break
            if not char.isspace():
                kept = place
        shown = name[:kept] + "…"
    return shown + score, min(_width(shown + score), widest)


def _width(words: str) -> float:
    return sum(map(_advance, words)) * _TEXT + 2 * _MARGIN


def _advance(char: str) -> float:
    """About how wide a character of a sans-serif face is, in ems."""
    if char in _NARROW:
        return 0.32
    if char in _WIDE:
        return 0.86
    if char.isascii():
        return 0.66 if char.isupper() else 0.55
    return 0.8 if ord(char) < _FULL_WIDTH else 1.0


def _luminance(red: int, green: int, blue: int) -> float:
    """Relative luminance as WCAG 2 defines it; above 0.179 black text has more contrast."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _view(width: float, height: float) -> str:
    return f"0 0 {_short(width)} {_short(height)}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
