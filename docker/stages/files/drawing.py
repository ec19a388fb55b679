"""Draw detections on an image: boxes with a name and a score, one colour a class."""

from __future__ import annotations

import colorsys
from typing import Any

_GOLDEN = 0.618033988749895  # turns of the colour circle between classes: neighbours differ most
_TEXT_SHARE, _MIN_TEXT, _LINE_SHARE = 28, 11, 220  # of the shorter side of the image, in pixels


def draw(image: Any, detections: list[dict[str, Any]]) -> Any:
    """Return a copy of ``image`` with every detection drawn on it.

    Args:
        image: a Pillow image.
        detections: as in ``detections.json``: ``box`` [ymin, xmin, ymax, xmax] as fractions of
            the image, ``score``, ``class_id``, ``label``. The best one ends up on top.

    Returns:
        A Pillow image, RGB, of the same size.
    """
    from PIL import ImageDraw, ImageFont

    canvas = image.convert("RGB")
    pen = ImageDraw.Draw(canvas)
    short_side = min(canvas.size)
    line = max(2, short_side // _LINE_SHARE)
    font = ImageFont.load_default(max(_MIN_TEXT, short_side // _TEXT_SHARE))
    ordered = sorted(detections, key=lambda item: item["score"])
    for item in ordered:
        box = _pixels(item["box"], canvas.size)
        pen.rectangle(box, outline=color(item["class_id"]), width=line)
    # After all the boxes, so that no line crosses a name.
    for item in ordered:
        _tag(pen, font, item, _pixels(item["box"], canvas.size), canvas.size)
    return canvas


def color(class_id: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue, each 0..255) of a class: the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN % 1.0, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _tag(
    pen: Any,
    font: Any,
    item: dict[str, Any],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> None:
    text = f"{item['label']} {item['score']:.0%}"
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = max(2, (bottom - top) // 4)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    # Above the box where there is space, else inside it; never outside the picture.
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else min(box[1], max(0, size[1] - height))
    background = color(item["class_id"])
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=background)
    pen.text((x + margin - left, y + margin - top), text, font=font, fill=_contrast(background))


def _contrast(background: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = background
    # Luma weights of ITU-R BT.601.
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return (0, 0, 0) if bright else (255, 255, 255)


def _pixels(box: list[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size
    ymin, xmin, ymax, xmax = (min(max(float(value), 0.0), 1.0) for value in box)
    left, top = round(xmin * (width - 1)), round(ymin * (height - 1))
    return left, top, max(left, round(xmax * (width - 1))), max(top, round(ymax * (height - 1)))
