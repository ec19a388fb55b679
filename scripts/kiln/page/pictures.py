"""Lay out detections over check images, in the units of an SVG drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kiln.core.digest import sha256_bytes
from kiln.page.contents import Detection, Picture
from kiln.page.differences import CHANGED, EXTRA, MISSED, SAME, Drawn
from kiln.page.formats import units
from kiln.project.stagecode import stage_module

#: Length of a drawing's longer side in its own units: sizes below do not depend on the picture.
SIDE = 640.0
_TEXT, _PLATE, _MARGIN, _LINE = 29.0, 38.0, 7.0, 4.0

#: Signs before the name of a differing detection, so that it is not told by colour alone.
_SIGNS = {SAME: "", CHANGED: "≠ ", EXTRA: "+ ", MISSED: "− "}

#: Characters that are much narrower or wider than others.
_NARROW, _WIDE = frozenset("fijlrt.,:;'|!()[]I1 -"), frozenset("mwMW%@+≠−")

_FULL_WIDTH = 0x2E80  # from here on most scripts are as wide as high

_Corners = tuple[float, float, float, float]  # left, top, right, bottom in drawing units


@dataclass(frozen=True)
class Canvas:
    """A check image as the page embeds it, with its size in drawing units.

    Attributes:
        id: digest of the picture and its size, so that the same picture is embedded once.
        uri: the preview as a data URI.
    """

    id: str
    uri: str
    width: float
    height: float

    @property
    def view_box(self) -> str:
        """The whole canvas as an SVG ``viewBox``."""
        return f"0 0 {units(self.width)} {units(self.height)}"


@dataclass(frozen=True)
class Box:
    """A rectangle in drawing units."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Mark:
    """A drawn detection: an outline, and a plate with its name.

    Attributes:
        kind: one of those of :mod:`kiln.page.differences`.
        paint, ink: colours of outline and plate, and of the text on it.
        text_left, baseline, text_width: position of the text.
    """

    kind: str
    score: float
    outline: Box
    plate: Box
    text: str
    text_left: float
    baseline: float
    text_width: float
    paint: str
    ink: str


def canvas(picture: Picture) -> Canvas:
    """Scale the picture to :data:`SIDE`."""
    scale = SIDE / max(picture.width, picture.height)
    width, height = picture.width * scale, picture.height * scale
    content = f"{width} {height} {picture.uri}".encode()
    return Canvas(f"picture-{sha256_bytes(content)[:32]}", picture.uri, width, height)


def marks(below: Canvas, drawn: Sequence[Drawn]) -> tuple[Mark, ...]:
    """Lay out detections, best score first, on a picture."""
    plates = _Plates((below.width, below.height))
    return tuple(_mark(item, below, plates) for item in drawn)


def names_and_scores(detections: Iterable[Detection]) -> str:
    """List names and scores, for a drawing's accessible name."""
    return ", ".join(f"{d['label']} {d['score']:.2f}" for d in detections) or "nothing"


class _Plates:
    """Places names above their boxes where there is room, and avoids overlaps if possible."""

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


def _mark(item: Drawn, below: Canvas, plates: _Plates) -> Mark:
    found = item.detection
    red, green, blue = stage_module("files.drawing").color(found["class_id"])
    ymin, xmin, ymax, xmax = (min(max(float(value), 0.0), 1.0) for value in found["box"])
    corners = (
        min(xmin, xmax) * below.width, min(ymin, ymax) * below.height,
        max(xmin, xmax) * below.width, max(ymin, ymax) * below.height,
    )  # fmt: skip
    name = f"{_SIGNS[item.kind]}{found['label']}"
    text, width = _fitted(name, f" {found['score']:.2f}", below.width)
    x, y = plates.place(width, corners)
    return Mark(
        kind=item.kind,
        score=found["score"],
        outline=_outline(*corners),
        plate=Box(x, y, width, min(_PLATE, below.height)),
        text=text,
        text_left=x + _MARGIN,
        baseline=y + _PLATE - 10,
        text_width=width - 2 * _MARGIN,
        paint=f"#{red:02x}{green:02x}{blue:02x}",
        ink="#000" if _luminance(red, green, blue) > 0.179 else "#fff",
    )


def _outline(left: float, top: float, right: float, bottom: float) -> Box:
    inset = _LINE / 2  # a line is as wide outside as inside: boxes at the edge stay whole
    return Box(
        min(left + inset, right),
        min(top + inset, bottom),
        max(right - left - _LINE, 1),
        max(bottom - top - _LINE, 1),
    )


def _fitted(name: str, score: str, widest: float) -> tuple[str, float]:
    """Return a plate's text, shortened to fit into the picture, and the plate's width."""
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
    """Estimate the width of a character of a sans-serif font, in ems."""
    if char in _NARROW:
        return 0.32
    if char in _WIDE:
        return 0.86
    if char.isascii():
        return 0.66 if char.isupper() else 0.55
    return 0.8 if ord(char) < _FULL_WIDTH else 1.0


def _luminance(red: int, green: int, blue: int) -> float:
    """Return WCAG 2's relative luminance; above 0.179 black text has more contrast."""
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
