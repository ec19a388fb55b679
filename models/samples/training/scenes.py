"""Pictures of simple objects with known boxes, drawn from a seed.

The embedded samples of CenterNet and EfficientDet are trained on such scenes, calibrated on some
and measured on others. One seed always gives the same scene (numpy's PCG64 and float64
arithmetic); the drawing is our own, so there is no licence to mind. numpy only, Python 3.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

#: Class id -> name. Id 3 is left out on purpose: real label maps (COCO's) have gaps, and a
#: converter that counts names instead of ids gets the classes after a gap wrong.
CLASSES = {1: "circle", 2: "square", 4: "triangle", 5: "star"}
NUM_CLASSES = max(CLASSES)

#: Radius of an object in pixels, whatever the size of the picture.
RADIUS = (14.0, 52.0)

#: First seeds of the sets: no two overlap for the sizes used here.
TRAINING, VALIDATION, CALIBRATION = 1_000_000, 9_000_000, 8_000_000

_TRIES = 30


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: uint8 [height, width, 3], RGB.
        boxes: float64 [n, 4], (ymin, xmin, ymax, xmax) in pixels.
        classes: int64 [n], ids of :data:`CLASSES`.
    """

    image: Any
    boxes: Any
    classes: Any


def scene(seed: int, height: int, width: int, objects: Optional[int] = None) -> Scene:
    """The scene of a seed: 1 to 6 objects (or ``objects``), none hiding much of another.

    Args:
        seed: any whole number from 0.
        height, width: of the picture in pixels, at least 110 (the largest object is 104 wide).
        objects: how many to try to place.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    image = _background(random, height, width)
    most = max(1, min(6, round(height * width / 16_000)))
    count = int(random.integers(1, most + 1)) if objects is None else objects
    boxes: list[Any] = []
    classes = []
    for _ in range(count):
        kind = int(random.choice(list(CLASSES)))
        placed = _place(random, kind, height, width, boxes)
        if placed is None:
            continue
        box, corners, centre, radius = placed
        _paint(random, image, box, corners, centre, radius)
        boxes.append(box)
        classes.append(kind)
    image += random.normal(0.0, random.uniform(0.0, 6.0), image.shape)
    return Scene(
        np.clip(np.rint(image), 0, 255).astype(np.uint8),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(classes, np.int64),
    )


def _background(random: Any, height: int, width: int) -> Any:
    """Soft patches of colour with a few thin lines and blurred specks, float64 [h, w, 3]."""
    cells = int(random.integers(2, 9))
    base = random.uniform(40, 215, 3)
    grid = np.clip(base + random.normal(0, random.uniform(5, 45), (cells, cells, 3)), 0, 255)
    image = _stretch(grid, height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    for _ in range(int(random.integers(0, 6))):  # lines: edges that bound no object
        angle = random.uniform(0, np.pi)
        offset = random.uniform(0, max(height, width))
        distance = np.abs(x * np.cos(angle) + y * np.sin(angle) - offset)
        cover = np.clip(random.uniform(0.5, 3.0) - distance, 0, 1)[..., None]
        image = image * (1 - cover) + random.uniform(0, 255, 3) * cover
    return image


def _stretch(grid: Any, height: int, width: int) -> Any:
    """Bilinear enlargement of a small grid."""

    def axis(size: int, cells: int) -> tuple[Any, Any, Any]:
        place = np.linspace(0, cells - 1, size)
        low = np.minimum(place.astype(np.int64), cells - 2)
        return low, low + 1, place - low

    top, bottom, fy = axis(height, grid.shape[0])
    left, right, fx = axis(width, grid.shape[1])
    rows = grid[top] * (1 - fy)[:, None, None] + grid[bottom] * fy[:, None, None]
    return rows[:, left] * (1 - fx)[None, :, None] + rows[:, right] * fx[None, :, None]


def _place(random: Any, kind: int, height: int, width: int, boxes: list[Any]) -> Any:
    """A place for an object that keeps clear of the others: (box, corners, centre, radius)."""
    for _ in range(_TRIES):
        # More small than large ones, evenly by ratio.
        radius = float(np.exp(random.uniform(*np.log(RADIUS))))
        turn = random.uniform(0, 2 * np.pi)
        cy = random.uniform(radius + 1, height - radius - 1)
        cx = random.uniform(radius + 1, width - radius - 1)
        corners = _corners(kind, radius, turn) + np.array([cy, cx]) if kind != 1 else None
        if corners is None:
            box = np.array([cy - radius, cx - radius, cy + radius, cx + radius])
        else:
            box = np.concatenate([corners.min(0), corners.max(0)])
        if all(_overlap(box, other) < 0.05 for other in boxes):
            return box, corners, (cy, cx), radius
    return None


def _corners(kind: int, radius: float, turn: float) -> Any:
    """Corners (y, x) of a polygon around the origin, float64 [n, 2]."""
    count = {2: 4, 4: 3, 5: 10}[kind]
    angles = turn + np.arange(count) * 2 * np.pi / count
    radii = np.full(count, radius)
    if kind == 5:
        radii[1::2] *= 0.45
    return np.stack([radii * np.sin(angles), radii * np.cos(angles)], 1)


def _overlap(one: Any, other: Any) -> float:
    """Intersection as a fraction of the smaller box."""
    top, bottom = max(one[0], other[0]), min(one[2], other[2])
    left, right = max(one[1], other[1]), min(one[3], other[3])
    if bottom <= top or right <= left:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float((bottom - top) * (right - left) / min(areas))


def _paint(
    random: Any, image: Any, box: Any, corners: Any, centre: tuple[float, float], radius: float
) -> None:
    """Draw one object, edges smoothed over a pixel, in a colour that stands out."""
    top, left = max(int(box[0]) - 1, 0), max(int(box[1]) - 1, 0)
    bottom, right = int(box[2]) + 3, int(box[3]) + 3
    patch = image[top:bottom, left:right]
    y, x = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]] + 0.5
    if corners is None:
        inside = radius - np.hypot(y - centre[0], x - centre[1])
    else:
        inside = _inside(corners, y, x)
    cover = np.clip(inside + 0.5, 0, 1)[..., None]
    behind = patch.mean((0, 1))
    for _ in range(_TRIES):
        colour = random.uniform(0, 255, 3)
        if np.abs(colour - behind).max() > 70:
            break
    # A slight gradient: no flat, perfectly even areas.
    shade = random.uniform(-25, 25) * (y - centre[0]) / radius
    patch[...] = patch * (1 - cover) + (colour + shade[..., None]) * cover


def _inside(corners: Any, y: Any, x: Any) -> Any:
    """Signed distance in pixels to a polygon's edge, positive inside."""
    nearest = np.full(y.shape, np.inf)
    crossings = np.zeros(y.shape, bool)
    following = np.roll(corners, -1, axis=0)
    for (ay, ax), (by, bx) in zip(corners, following):
        dy, dx = by - ay, bx - ax
        along = np.clip(((y - ay) * dy + (x - ax) * dx) / (dy * dy + dx * dx), 0, 1)
        nearest = np.minimum(nearest, np.hypot(y - ay - along * dy, x - ax - along * dx))
        between = (ay > y) != (by > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings ^= between & (x < ax + (y - ay) * dx / dy)
    return np.where(crossings, nearest, -nearest)
