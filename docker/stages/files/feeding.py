"""Describe how a photograph becomes the input picture of a model. Standard library only.

A model finds most in pictures that were resized the way its training resized them. The description
travels inside the ``.tflite`` as :data:`FILE`; :mod:`stages.files.pixels` carries it out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

FILE = "feeding.json"
"""Name of the associated file of the input tensor."""

LETTERBOX, STRETCH = "letterbox", "stretch"
TOP_LEFT = "top-left"
HALF_PIXEL, CORNER = "half-pixel", "corner"
INTERPOLATIONS = ("bilinear", "nearest", "bicubic", "area")

_SAMPLING = {
    HALF_PIXEL: "as image libraries sample (pixel centres at .5)",
    CORNER: "as TensorFlow 1 samples (source = target * scale)",
}


@dataclass(frozen=True)
class Feeding:
    """How a photograph becomes the input picture.

    Args:
        fit: ``letterbox`` (one scale for both sides, the rest filled) or ``stretch``.
        anchor: where a letterboxed photograph lies: ``top-left``; None for ``stretch``.
        fill: red, green, blue of the rest, 0 to 255, before normalisation; None for ``stretch``.
        sampling: ``half-pixel`` or ``corner``. A letterboxed photograph's size is rounded to the
            nearest pixel with ``corner`` (as TensorFlow 1 does), and down with ``half-pixel`` (as
            Model Maker does).
        interpolation: one of :data:`INTERPOLATIONS`.
    """

    fit: str = STRETCH
    anchor: Optional[str] = None
    fill: Optional[tuple[float, ...]] = None
    sampling: str = HALF_PIXEL
    interpolation: str = "bilinear"

    def as_fact(self) -> dict[str, Any]:
        """Return plain data, as facts and :data:`FILE` hold it."""
        return {**asdict(self), "fill": None if self.fill is None else list(self.fill)}

    def as_file(self) -> bytes:
        """Return the content of :data:`FILE`."""
        return (json.dumps(self.as_fact(), indent=1, sort_keys=True) + "\n").encode("ascii")

    def sentence(self, height: int, width: int) -> str:
        """Describe it in one sentence, for an input of that size in pixels."""
        how = "" if self.interpolation == "bilinear" else f"{self.interpolation} interpolation, "
        how += _SAMPLING[self.sampling]
        if self.fill is None:
            return (
                f"The image, stretched to {width} x {height} pixels (each side is scaled by itself;"
                f" {how})."
            )
        rest = ", ".join(f"{value:g}" for value in self.fill)
        return (
            f"The image, letterboxed: scaled to fit into {width} x {height} pixels with its"
            f" proportions kept ({how}), placed at the top left, the rest filled with red, green,"
            f" blue {rest}; boxes are fractions of the whole input."
        )


ASSUMED = Feeding()
"""How a file without a description is fed: what the Task Library and MediaPipe do."""


def letterbox(
    fill: tuple[float, ...], sampling: str = HALF_PIXEL, interpolation: str = "bilinear"
) -> Feeding:
    """Return a letterbox at the top left; ``fill`` as in :class:`Feeding`, limited to a pixel."""
    limited = tuple(min(max(float(value), 0.0), 255.0) for value in fill)
    return Feeding(LETTERBOX, TOP_LEFT, limited, sampling, interpolation)


def usual(fit: str, described: Feeding) -> Feeding:
    """Return the way to feed a model that most programs have: half-pixel centres, bilinear.

    Args:
        fit: ``letterbox`` or ``stretch``.
        described: of the model; a letterbox has its filling, or a black one.
    """
    return letterbox(described.fill or (0.0,) * 3) if fit == LETTERBOX else ASSUMED


def read(value: Any) -> Feeding:
    """Read the plain data of :meth:`Feeding.as_fact`.

    Raises:
        ValueError: it is not such a description.
    """
    names = set(Feeding.__dataclass_fields__)
    if not isinstance(value, Mapping) or set(value) != names:
        raise ValueError(f"a description of feeding has the fields {', '.join(sorted(names))}")
    fill = value["fill"]
    letterboxed = value["fit"] == LETTERBOX
    if letterboxed:
        numbers = isinstance(fill, (list, tuple)) and len(fill) == 3 and all(map(_is_pixel, fill))
        good = numbers and value["anchor"] == TOP_LEFT
    else:
        good = value["fit"] == STRETCH and fill is None and value["anchor"] is None
    if value["sampling"] not in _SAMPLING or value["interpolation"] not in INTERPOLATIONS:
        good = False
    if not good:
        raise ValueError(f"{dict(value)!r} is not a known way to feed a model")
    return Feeding(**{**value, "fill": tuple(map(float, fill)) if letterboxed else None})


def parse(content: bytes) -> Feeding:
    """Read the content of :data:`FILE`.

    Raises:
        ValueError: it is not such a description.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{FILE} is not JSON") from error
    return read(value)


def _is_pixel(value: Any) -> bool:
    # Comparisons with NaN are false.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 255
