"""Pictures that the toy detectors find something in.

A quarter that is red, green or blue is class 1, 2 or 3 (see ``fixtures/make_toy_detectors.py``).
"""

from __future__ import annotations

import numpy as np

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)


def picture(*quarters: tuple[int, int, int], size: int = 32) -> np.ndarray:
    image = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    for index, color in enumerate(quarters):
        row, column = divmod(index, 2)
        image[row * half :, column * half :][:half, :half] = color
    return image
