"""COCO's average precision, for measuring the embedded samples. numpy only.

The definition is that of https://cocodataset.org/#detection-eval: for each class and each overlap
from 0.50 to 0.95 the detections of all pictures are ranked by score, each takes the free object
that it overlaps most, and precision is read off at 101 recalls; the mean of all that is the AP.
"""

from __future__ import annotations

from typing import Any

import numpy as np

OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(found: list[list[Any]], truth: list[list[Any]]) -> float:
    """AP[.50:.95] over all classes that ``truth`` has.

    Args:
        found: of each picture its detections (box, class, score); a box is (ymin, xmin, ymax,
            xmax) in any unit that ``truth`` uses, too.
        truth: of each picture its objects (box, class).
    """
    classes = sorted({kind for objects in truth for _, kind in objects})
    return float(np.mean([_of_class(found, truth, kind) for kind in classes]))


def intersection_over_union(box: Any, others: Any) -> Any:
    """Of one box with each of ``others`` [n, 4]: float64 [n]."""
    top_left = np.maximum(box[:2], others[:, :2])
    sides = np.clip(np.minimum(box[2:], others[:, 2:]) - top_left, 0, None)
    shared = sides.prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)


def _of_class(found: list[list[Any]], truth: list[list[Any]], kind: int) -> float:
    objects = [np.array([box for box, k in items if k == kind]).reshape(-1, 4) for items in truth]
    ranked = [
        (score, picture, np.asarray(box, np.float64))
        for picture, items in enumerate(found)
        for box, k, score in items
        if k == kind
    ]
    ranked.sort(key=lambda item: -item[0])  # stable: equal scores stay in the pictures' order
    overlaps = [intersection_over_union(box, objects[picture]) for _, picture, box in ranked]
    taken = [np.zeros((len(OVERLAPS), len(boxes)), bool) for boxes in objects]
    hits = np.zeros((len(OVERLAPS), len(ranked)))
    for place, (_, picture, _) in enumerate(ranked):
        for row, least in enumerate(OVERLAPS):
            free = np.where(taken[picture][row], 0.0, overlaps[place])
            # The margin is the reference implementation's: an overlap of exactly ``least`` counts.
            if free.size and free.max() >= least - 1e-10:
                taken[picture][row, free.argmax()] = True
                hits[row, place] = 1
    right = hits.cumsum(1)
    recall = right / sum(map(len, objects))
    precision = right / np.arange(1, len(ranked) + 1)
    # At each recall the best precision to be had from there on.
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    precision = np.pad(precision, [(0, 0), (0, 1)])
    places = [np.searchsorted(row, RECALLS) for row in recall]
    return float(np.mean([row[place].mean() for row, place in zip(precision, places)]))
