"""Make the representative set that integer quantisation measures activations on.

A few photographs show a network few of the values that it will meet. More are made of them by
mirroring and cropping: whole pixels are taken as they are, so the same photographs give the same
set everywhere. The order is fixed: all photographs whole, then all mirrored, then crops of all of
them, one kind after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from stages.files import feeding, pixels
from stages.protocol.failures import StageError

_SHARES = ((3, 4), (1, 2), (5, 8), (7, 8))
"""Sides of a crop, as fractions of the photograph's."""

_PLACES = ((0, 0), (2, 2), (0, 2), (2, 0), (1, 1))
"""Where a crop lies: halves of the room above it and to its left."""

_TURNS = len(_SHARES) * len(_PLACES)
VIEWS = 2 + 2 * _TURNS
"""How many different pictures are made of one photograph, at most."""


def view(image: Any, number: int) -> Any:
    """Return one of the pictures made of a photograph.

    Args:
        image: array [h, w, 3].
        number: 0 is the photograph itself, 1 its mirror image, others up to :data:`VIEWS` are
            crops, half of them mirrored.
    """
    if number < 2:
        return image[:, ::-1] if number else image
    turn = number - 2
    part, whole = _SHARES[turn % len(_SHARES)]
    down, right = _PLACES[turn % len(_PLACES)]
    height, width = (max(1, side * part // whole) for side in image.shape[:2])
    top, left = (image.shape[0] - height) * down // 2, (image.shape[1] - width) * right // 2
    crop = image[top : top + height, left : left + width]
    return crop[:, ::-1] if (turn + turn // _TURNS) % 2 else crop


def chosen(files: Sequence[Path], count: Optional[int]) -> list[tuple[Path, int]]:
    """Return the (file, number of its :func:`view`) of a set, in order.

    Args:
        files: the photographs, in the order of their names.
        count: how many pictures are wanted; None: one of each photograph.

    Raises:
        StageError: kind ``image-set``; so many cannot be made.
    """
    wanted = len(files) if count is None else count
    if wanted > VIEWS * len(files):
        raise StageError(
            "image-set",
            f"{wanted} pictures to calibrate on cannot be made of {len(files)} photographs: "
            f"{VIEWS} of each are the most.",
            f"Write calibration.number = {VIEWS * len(files)} or less, or add photographs.",
        )
    return [(files[index % len(files)], index // len(files)) for index in range(wanted)]


def representative(
    pictures: Sequence[tuple[Path, int]],
    size: tuple[int, int],
    how: feeding.Feeding,
    norm: Mapping[str, Sequence[float]],
    emit: Any,
) -> Iterator[list[Any]]:
    """Yield pictures as a graph's input: float32 [1, height, width, 3].

    Args:
        pictures: as :func:`chosen` returns them.
        size: height and width of the input in pixels.
        how: how a photograph becomes the input.
        norm: ``mean`` and ``std`` by channel, in pixel values.
        emit: where progress is reported.
    """
    import numpy as np

    mean, std = np.array(norm["mean"], np.float32), np.array(norm["std"], np.float32)
    for number, (path, turn) in enumerate(pictures):
        emit.progress(number, len(pictures), f"calibrating on {path.name}")
        image = pixels.fed(view(pixels.load_rgb(path), turn), *size, how)
        if number == 0:
            # The input's quantisation spans the values seen. One black and one white pixel make
            # that the whole range for any images, so that a stored byte of the input *is* the pixel
            # value and no photo is out of range later.
            image[0, 0], image[0, 1] = 0, 255
        yield [((image - mean) / std)[None]]
    emit.progress(len(pictures), len(pictures), "converting")
