"""Turn images into input values: decode, resize, normalise, with the same numbers everywhere.

Pillow decodes; resizing is numpy, written to give what TensorFlow's own kernels give. Source models
are resized by their authors' code, not by this. Pillow and numpy are imported inside the functions:
importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.files import feeding
from stages.protocol.failures import StageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
CROPS = {"16:9": (16, 9), "9:16": (9, 16)}
"""Proportions (width, height) of the crops that :func:`pictures` adds, by name."""

_LARGE = 512 * 512  # pixels of an input

_SQUARE = 1.1
"""The longer side of an image that is about square, at most, times the shorter one."""

_SAME_SHAPE = 1.1  # two proportions that differ by less are about the same
_MAX_PIXELS = 100_000_000  # 300 MB as RGB: larger images are a mistake or an attack


def is_large(height: int, width: int) -> bool:
    """Whether one run of a model with an input of that size takes about a second or more."""
    return height * width >= _LARGE


def of_other_shape(image: Any, height: int, width: int) -> bool:
    """Whether an image (array [h, w, ...]) has clearly other proportions than height : width."""
    shape = image.shape[0] / image.shape[1] / (height / width)
    return not 1 / _SAME_SHAPE <= shape <= _SAME_SHAPE


def list_images(folder: Path) -> list[Path]:
    """List the image files directly in ``folder``, by name; other files are ignored.

    Raises:
        StageError: kind ``image-set``; there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise StageError(
            "image-set", f"There is no image folder {folder.name}.", "Name a folder of images."
        )
    found = sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()),
        key=lambda path: path.name,
    )
    if not found:
        raise StageError(
            "image-set",
            f"The folder {folder.name} holds no image ({', '.join(SUFFIXES)}).",
            "Put some images into it.",
        )
    return found


def load_rgb(path: Path) -> Any:
    """Decode an image file.

    The pixels are used as stored: an EXIF orientation is not applied, because
    TensorFlow's decoder and the Task Library do not apply it either. Transparency is dropped.

    Returns:
        uint8 array [height, width, 3], RGB.

    Raises:
        StageError: kind ``image-set``; it is not an image, is damaged, or is far too large.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise _unreadable(path, f"{width} x {height} pixels are too many")
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except StageError:
        raise
    # Decoders of damaged files raise almost anything (SyntaxError and struct.error included).
    except Exception as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error


def pictures(folder: Path, crops: bool = False) -> Iterator[tuple[str, Any]]:
    """Decode the images of a folder, one at a time.

    Args:
        folder: see :func:`list_images`.
        crops: where all images are about square, add :data:`CROPS` of the first ones. Only in
            pictures of other proportions than the input's does it show how a model is fed.

    Yields:
        The file name (of a crop: with its proportions behind it), and the image as
        :func:`load_rgb` decodes it.

    Raises:
        StageError: kind ``image-set``; see :func:`list_images` and :func:`load_rgb`.
    """
    paths = list_images(folder)
    square = True
    for path in paths:
        image = load_rgb(path)
        square = square and max(image.shape[:2]) <= _SQUARE * min(image.shape[:2])
        yield path.name, image
    if crops and square:
        for number, (name, shape) in enumerate(CROPS.items()):
            path = paths[number % len(paths)]
            yield f"{path.name} ({name})", crop(load_rgb(path), *shape)


def crop(image: Any, width: int, height: int) -> Any:
    """Return the middle of an image (array [h, w, ...]) in the proportions width : height."""
    rows, columns = image.shape[:2]
    inner_rows = max(1, min(rows, round(columns * height / width)))
    inner_columns = max(1, min(columns, round(rows * width / height)))
    top, left = (rows - inner_rows) // 2, (columns - inner_columns) // 2
    return image[top : top + inner_rows, left : left + inner_columns]


def fed(image: Any, height: int, width: int, how: feeding.Feeding) -> Any:
    """Make the input picture of a photograph.

    Args:
        image: array [h, w, 3], any real dtype.
        height: of the input, in pixels.
        width: of the input, in pixels.
        how: the description.

    Returns:
        float32 array [height, width, 3] in the value range of ``image``.
    """
    import numpy as np

    inner, _ = placed(image.shape[0], image.shape[1], height, width, how)
    picture = resize(image, *inner, how.sampling, how.interpolation)
    if how.fill is None:
        return picture
    whole = np.empty((height, width, 3), np.float32)
    whole[:] = np.asarray(how.fill, np.float32)
    whole[: inner[0], : inner[1]] = picture
    return whole


def placed(
    source_height: int, source_width: int, height: int, width: int, how: feeding.Feeding
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Compute where a photograph lies in the input picture.

    Args:
        source_height: of the photograph, in pixels.
        source_width: of the photograph, in pixels.
        height: of the input, in pixels.
        width: of the input, in pixels.
        how: the description.

    Returns:
        (height, width) in pixels that it covers, and what fraction of the input's height and width
        that is. Sizes are computed in float32, as TensorFlow does: a side can be one pixel smaller
        than in exact arithmetic. Fractions are what the models' authors convert boxes by: the
        Object Detection API (``corner``) by the size in whole pixels, Model Maker by the scale.
    """
    import numpy as np

    if how.fit == feeding.STRETCH:
        return (height, width), (1.0, 1.0)
    sides, room = np.array([[source_height, source_width], [height, width]], np.float32)
    scaled = sides * np.min(room / sides)
    if how.sampling == feeding.CORNER:
        scaled = np.clip(np.rint(scaled), 1, room)
    inner = np.clip(np.trunc(scaled), 1, room)
    down, across = (scaled / room).tolist()
    return (int(inner[0]), int(inner[1])), (down, across)


def in_photograph(found: list[dict[str, Any]], shares: tuple[float, float]) -> list[dict[str, Any]]:
    """Convert boxes of detections from fractions of the input to fractions of the photograph.

    Those wholly in a letterbox's filling are left out.

    Args:
        found: detections with ``box``: [ymin, xmin, ymax, xmax].
        shares: the fractions of the input that the photograph covers, from :func:`placed`.
    """
    down, across = shares
    if down == across == 1:
        return found
    mapped = []
    for item in found:
        top, left, bottom, right = item["box"]
        box = [top / down, left / across, bottom / down, right / across]
        if box[0] < 1 and box[1] < 1:
            mapped.append({**item, "box": box})
    return mapped


def resize(image: Any, height: int, width: int, sampling: str, interpolation: str) -> Any:
    """Resize like TensorFlow's kernels.

    Args:
        image: array [h, w, channels], any real dtype.
        height: of the result, in pixels.
        width: of the result, in pixels.
        sampling: :data:`stages.files.feeding.HALF_PIXEL` (``tf.image.resize``) or
            :data:`stages.files.feeding.CORNER` (``tf.compat.v1.image.resize``).
        interpolation: one of :data:`stages.files.feeding.INTERPOLATIONS`.

    Returns:
        float32 array [height, width, channels].
    """
    import numpy as np

    pixels = np.asarray(image).astype(np.float32)
    if pixels.shape[:2] == (height, width):
        return pixels
    if interpolation == "bilinear":
        return resize_bilinear(pixels, height, width, sampling)
    rows, columns = pixels.shape[:2]
    if interpolation == "nearest":
        down, across = _nearest(height, rows, sampling), _nearest(width, columns, sampling)
        return pixels[down][:, across]
    weigh = _area if interpolation == "area" else _bicubic
    pixels = np.tensordot(weigh(height, rows, sampling), pixels, 1)
    return np.einsum("wx,hxc->hwc", weigh(width, columns, sampling), pixels, optimize=True)


def resize_bilinear(image: Any, height: int, width: int, sampling: str = feeding.HALF_PIXEL) -> Any:
    """Resize like ``tf.image.resize(image, (height, width), method="bilinear")``.

    That is: no antialiasing, edges repeated, float32 arithmetic in the order of TensorFlow's
    ``ResizeBilinear`` kernel.

    Args:
        image: array [h, w, channels], any real dtype.
        height: of the result, in pixels.
        width: of the result, in pixels.
        sampling: where pixels are; see :func:`resize`.

    Returns:
        float32 array [height, width, channels] in the value range of ``image``.
    """
    import numpy as np

    pixels = np.asarray(image).astype(np.float32)
    if pixels.shape[:2] == (height, width):
        return pixels
    top, bottom, down = _taps(height, pixels.shape[0], sampling)
    left, right, across = _taps(width, pixels.shape[1], sampling)
    across, down = across[None, :, None], down[:, None, None]
    upper, lower = pixels[top], pixels[bottom]
    upper = upper[:, left] + (upper[:, right] - upper[:, left]) * across
    lower = lower[:, left] + (lower[:, right] - lower[:, left]) * across
    return upper + (lower - upper) * down


def normalize(pixels: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """Compute (pixels - mean) / std in float32.

    Args:
        pixels: float32 array [height, width, 3], 0..255.
        mean: one number, or one a channel, in pixel values; empty: nothing is subtracted.
        std: the same for the divisor.
    """
    import numpy as np

    if not mean:
        return pixels
    return (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def to_uint8(pixels: Any) -> Any:
    """Round pixels to whole numbers 0..255: halves to the even neighbour, then clipped."""
    import numpy as np

    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


RAW_INPUTS = {"uint8": 0, "int8": -128}
"""Types of input that take raw pixels, and what is added to a pixel (0 to 255) to store it."""


def to_raw(pixels: Any, kind: str) -> Any:
    """Round pixels as :func:`to_uint8`, and store them as one of :data:`RAW_INPUTS`."""
    import numpy as np

    whole = to_uint8(pixels)
    if kind == "uint8":
        return whole
    return (whole.astype(np.int16) + RAW_INPUTS[kind]).astype(kind)


def _where(size: int, source: int, sampling: str) -> Any:
    """Return the place in the source of each of ``size`` pixels of a line, float32."""
    import numpy as np

    scale = np.float32(source) / np.float32(size)
    targets = np.arange(size, dtype=np.float32)
    if sampling == feeding.CORNER:
        return targets * scale
    return (targets + np.float32(0.5)) * scale - np.float32(0.5)


def _taps(size: int, source: int, sampling: str) -> tuple[Any, Any, Any]:
    """Return both source pixels and their weight for each of ``size`` pixels of a line."""
    import numpy as np

    where = _where(size, source, sampling)
    floor = np.floor(where)
    first = np.maximum(floor, 0).astype(np.int64)
    second = np.minimum(np.ceil(where), source - 1).astype(np.int64)
    return np.minimum(first, source - 1), np.maximum(second, 0), where - floor


def _nearest(size: int, source: int, sampling: str) -> Any:
    """Return the source pixel of each of ``size`` pixels of a line."""
    import numpy as np

    scale = np.float32(source) / np.float32(size)
    half = np.float32(0 if sampling == feeding.CORNER else 0.5)
    where = np.floor((np.arange(size, dtype=np.float32) + half) * scale)
    return np.minimum(where.astype(np.int64), source - 1)


def _area(size: int, source: int, sampling: str) -> Any:
    """Return weights [size, source]: each target pixel is the mean of the pixels that it covers."""
    import numpy as np

    scale = source / size
    starts = np.arange(size)[:, None] * scale
    rows = np.arange(source)[None]
    shared = np.minimum(rows + 1, starts + scale) - np.maximum(rows, starts)
    return (np.maximum(shared, 0) / scale).astype(np.float32)


def _bicubic(size: int, source: int, sampling: str) -> Any:
    """Return weights [size, source] of four neighbours, by Keys' cubic convolution.

    TensorFlow's kernel takes -0.75 for its parameter, and repeats the edges; with half-pixel
    centres it takes -0.5, and leaves out what is beyond the edges.
    """
    import numpy as np

    corner = sampling == feeding.CORNER
    a = -0.75 if corner else -0.5
    where = _where(size, source, sampling).astype(np.float64)
    first = np.floor(where).astype(np.int64) - 1
    # The kernel looks weights up in a table of 1024 steps.
    offset = np.rint((where - np.floor(where)) * 1024) / 1024
    found = np.zeros((size, source))
    for number in range(4):
        distance = np.abs(offset + 1 - number)
        inner = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        outer = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, inner, outer)
        place = first + number
        inside = (place >= 0) & (place < source)
        weight = weight if corner else np.where(inside, weight, 0)
        np.add.at(found, (np.arange(size), np.clip(place, 0, source - 1)), weight)
    return (found / found.sum(1, keepdims=True)).astype(np.float32)


def _unreadable(path: Path, reason: str) -> StageError:
    return StageError(
        "image-set",
        f"The image {path.name} cannot be read: {reason}.",
        "Replace it, or take it out of the folder.",
    )
