"""How a picture becomes a model's input (*feeding*), as a ``.tflite`` file states it.

A detector finds less in pictures that are resized in another way than in its training. The stage
``annotate`` therefore packs :data:`FEEDING_FILE` into each file. Files are untrusted: unknown
fields and values are refused, because half of a description is no description.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.project import bounds
from kiln.tflite.packing import PackedFile
from kiln.tflite.wording import number

FEEDING_FILE = "feeding.json"

LETTERBOX, STRETCH = "letterbox", "stretch"
TOP_LEFT = "top-left"
HALF_PIXEL, CORNER = "half-pixel", "corner"
BILINEAR, NEAREST, BICUBIC, AREA = "bilinear", "nearest", "bicubic", "area"

UNSTATED = "not said in the file: stretch is what Task Library and MediaPipe do"
"""What is said of a file without a description."""

_DEPTH = 4  # levels of nesting: an object with one list in it, and room to spare
_ONE_OF = {
    "fit": (LETTERBOX, STRETCH),
    "sampling": (HALF_PIXEL, CORNER),
    "interpolation": (BILINEAR, NEAREST, BICUBIC, AREA),
}
_INTERPOLATIONS = {NEAREST: "nearest pixel", BICUBIC: "bicubic", AREA: "averaged areas"}


@dataclass(frozen=True)
class Feeding:
    """How a picture becomes the model's input.

    Attributes:
        fit: ``letterbox`` (keep the proportions, scale to fit, fill the rest) or ``stretch``
            (scale each side by itself).
        anchor: of a letterbox: where the picture is, ``top-left``; ``None`` for ``stretch``.
        fill: of a letterbox: red, green and blue of the rest, 0 to 255, before normalisation.
        sampling: ``half-pixel`` (image libraries: pixel centres are compared) or ``corner``
            (TensorFlow 1: target pixel i is at i times the scale in the source). A letterboxed
            picture's sides are rounded down with the former, and boxes follow the scale, as in
            Model Maker; with the latter, sides are rounded to the nearest pixel, and boxes follow
            them, as in the Object Detection API.
        interpolation: ``bilinear``, ``nearest``, ``bicubic`` or ``area``; no antialiasing.
    """

    fit: str = STRETCH
    anchor: str | None = None
    fill: tuple[float, ...] | None = None
    sampling: str = HALF_PIXEL
    interpolation: str = BILINEAR

    @property
    def letterboxed(self) -> bool:
        """Whether pictures keep their proportions."""
        return self.fit == LETTERBOX

    def as_json(self) -> dict[str, Any]:
        """Return the same fields as plain values."""
        fields = asdict(self)
        return {**fields, "fill": None if self.fill is None else list(self.fill)}

    def words(self, size: str) -> str:
        """Describe it in plain words; ``size`` is the input's, as text.

        >>> Feeding(sampling="corner").words("300x300")
        "stretch to 300x300: scale each side by itself; TensorFlow 1's sampling"
        """
        if self.fill is None:
            parts = [f"stretch to {size}: scale each side by itself"]
        else:
            rest = ",".join(map(number, self.fill))
            parts = [
                f"letterbox to {size}: keep the proportions, top left, rest filled with {rest}"
            ]
        if self.interpolation != BILINEAR:
            parts.append(_INTERPOLATIONS[self.interpolation])
        if self.sampling == CORNER:
            parts.append("TensorFlow 1's sampling")
        return "; ".join(parts)


ASSUMED = Feeding()
"""How files without a description are fed."""


def stated(files: Iterable[PackedFile]) -> Feeding | None:
    """Return the feeding that a file's packed files state, or ``None``.

    Raises:
        MalformedError: there is a description, but it cannot be read.
    """
    for item in files:
        if item.name == FEEDING_FILE:
            if item.content is None:
                raise MalformedError(item.problem or "cannot be unpacked")
            return parse(item.content)
    return None


def parse(content: bytes) -> Feeding:
    """Read the content of :data:`FEEDING_FILE`.

    Raises:
        MalformedError: it is no description, or one that this version does not know.
    """
    fields = parse_json_object(content, size=bounds.FEEDING.most, depth=_DEPTH)
    known = Feeding.__dataclass_fields__
    if missing := sorted(known.keys() - fields.keys()):
        raise MalformedError(f"does not say: {', '.join(missing)}")
    if fields.keys() - known.keys():
        raise MalformedError("says more than this version of kiln knows")
    for name, values in _ONE_OF.items():
        if fields[name] not in values:
            raise MalformedError(f"has another {name} than {', '.join(values)}")
    fill = fields["fill"]
    if fields["fit"] == STRETCH:
        if (fields["anchor"], fill) != (None, None):
            raise MalformedError("stretches, but has an anchor or a fill")
    elif fields["anchor"] != TOP_LEFT:
        raise MalformedError(f"has another anchor than {TOP_LEFT}")
    elif not isinstance(fill, list) or len(fill) != 3 or not all(map(_is_pixel, fill)):
        raise MalformedError("has a fill that is not three numbers from 0 to 255")
    return Feeding(**{**fields, "fill": None if fill is None else tuple(fill)})


def _is_pixel(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 255
