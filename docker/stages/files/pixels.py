"""Turn images into input values: decode, resize, normalise, with the same numbers everywhere.

Pillow decodes; resizing is numpy, written to give what TensorFlow's own bilinear kernel gives,
so that a comparison with the source model is not a comparison of two resizers. Pillow and numpy
are imported inside the functions: importing this module is cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.protocol.failures import StageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_MAX_PIXELS = 100_000_000  # 300 MB as RGB: larger images are a mistake or an attack


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


def resize_bilinear(image: Any, height: int, width: int) -> Any:
    """Resize like ``tf.image.resize(image, (height, width), method="bilinear")``.

    That is: half-pixel centres, no antialiasing, edges repeated, float32 arithmetic in the
    order of TensorFlow's ``ResizeBilinear`` kernel.

    Args:
        image: array [h, w, channels], any real dtype.
        height: of the result, in pixels.
        width: of the result, in pixels.

    Returns:
        float32 array [height, width, channels] in the value range of ``image``.
    """
    import numpy as np

    pixels = np.asarray(image).astype(np.float32)
    if pixels.shape[:2] == (height, width):
        return pixels
    top, bottom, down = _taps(height, pixels.shape[0])
    left, right, across = _taps(width, pixels.shape[1])
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


def _taps(size: int, source: int) -> tuple[Any, Any, Any]:
    """Return both source pixels and their weight for each of ``size`` pixels of a line."""
    import numpy as np

    scale = np.float32(source) / np.float32(size)
    where = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(where)
    first = np.maximum(floor, 0).astype(np.int64)
    second = np.minimum(np.ceil(where), source - 1).astype(np.int64)
    return np.minimum(first, source - 1), np.maximum(second, 0), where - floor


def _unreadable(path: Path, reason: str) -> StageError:
    return StageError(
        "image-set",
        f"The image {path.name} cannot be read: {reason}.",
        "Replace it, or take it out of the folder.",
    )
