"""Scenes of photographed objects with known boxes, composed from a seed.

The SSD sample knows people, cats and coffee cups, not drawn shapes. Its scenes are the sample
photographs, mirrored, darkened or brightened, shrunk and laid on a plain ground, so that one
object is at many places, sizes and shades. numpy and Pillow, Python 3.9.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scenes import Scene

#: Photograph -> what is on it: class name, and (ymin, xmin, ymax, xmax) in pixels, drawn by eye.
OBJECTS = {
    "astronaut.png": ("Person", (14, 22, 512, 360)),
    "camera.png": ("Person", (63, 0, 512, 330)),
    "chelsea.png": ("Cat", (0, 0, 300, 400)),
    "coffee.png": ("Coffee cup", (18, 173, 310, 410)),
}

#: Length of the photograph's longer side, as a fraction of the scene's.
SIZES = (0.6, 1.0)


def photo_scene(seed: int, side: int, photos: Path, ids: dict[str, int]) -> Scene:
    """One photograph on a ground of one colour with a little noise.

    Args:
        seed: any whole number from 0; photographs take turns.
        side: height and width of the scene in pixels.
        photos: the folder of the sample photographs.
        ids: class name -> id, as in the label map.
    """
    from PIL import Image

    random = np.random.Generator(np.random.PCG64(seed))
    file = sorted(OBJECTS)[seed % len(OBJECTS)]
    name, box = OBJECTS[file]
    with Image.open(photos / file) as opened:
        photo = opened.convert("RGB")
    scale = side * random.uniform(*SIZES) / max(photo.size)
    width, height = (max(1, round(length * scale)) for length in photo.size)
    pixels = np.asarray(photo.resize((width, height), Image.BILINEAR), np.float64)
    ymin, xmin, ymax, xmax = (length * scale for length in box)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
        xmin, xmax = width - xmax, width - xmin
    pixels = pixels * random.uniform(0.8, 1.2)
    scene = np.full((side, side, 3), random.uniform(90, 200, 3))
    top = int(random.integers(0, side - height + 1))
    left = int(random.integers(0, side - width + 1))
    scene[top : top + height, left : left + width] = pixels
    scene += random.normal(0.0, 3.0, scene.shape)
    return Scene(
        np.clip(np.rint(scene), 0, 255).astype(np.uint8),
        np.array([[ymin + top, xmin + left, ymax + top, xmax + left]]),
        np.array([ids[name]], np.int64),
    )
