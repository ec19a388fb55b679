"""Decode raw boxes and scores to detections, in numpy, as a file describes it.

Boxes are decoded as the Object Detection API encodes them. As in its own post-processing, they are
suppressed within each class, or across classes if the model does that, and clipped to the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stages.tflite import decoding

_FIRST = 4096
"""Scores that are sorted at first. There are millions, and a hundred detections need few."""


def boxes(raw: Any, how: decoding.Decoding) -> Any:
    """Decode boxes.

    Args:
        raw: float32 [anchors, 4], as the graph outputs them.
        how: the description in the file.

    Returns:
        float32 [anchors, 4]: top, left, bottom, right, as fractions of the input.
    """
    import numpy as np

    anchors = np.frombuffer(how.anchors, "<f4").reshape(-1, 4).astype(np.float32)
    moved, sizes = (raw / np.array(how.scales, np.float32)).reshape(-1, 2, 2).swapaxes(0, 1)
    centres, sides = anchors[:, :2], anchors[:, 2:]
    centres = moved * sides + centres
    with np.errstate(over="ignore"):  # what is infinite is reported by who reads it
        halves = np.exp(sizes) * sides / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def clipped(decoded: Any) -> Any:
    """Clip boxes, fractions of the input, to the input."""
    return decoded.clip(0, 1)


def select(decoded: Any, scores: Any, rule: decoding.Suppression) -> list[tuple[int, int]]:
    """Suppress overlapping boxes.

    A class does not influence another one, unless boxes are suppressed across classes. So all
    scores are gone through at once, best first, until there are enough.

    Args:
        decoded: from :func:`boxes`.
        scores: float32 [anchors, classes].
        rule: the limits.

    Returns:
        (row of the box, class from 0), best score first; without boxes wholly outside of the input.
    """
    import numpy as np

    least = -np.inf if rule.score_threshold is None else rule.score_threshold
    values, best = scores.reshape(-1), None
    if rule.within == decoding.IMAGE:
        best = np.argmax(scores, axis=1)
        values = scores[np.arange(len(scores)), best]
    visible = (np.diff(clipped(decoded).reshape(-1, 2, 2), axis=1) > 0).all(axis=(1, 2))
    kept: list[tuple[int, int]] = []
    rivals: dict[int, list[int]] = {}  # by class: rows that were kept
    for place in _best_first(values, least):
        row, label = divmod(place, scores.shape[1]) if best is None else (place, int(best[place]))
        others = rivals.setdefault(label if best is None else 0, [])
        if len(others) >= rule.max_detections_per_class:
            continue
        if not others or _most_overlap(decoded[row], decoded[others]) <= rule.iou_threshold:
            others.append(row)
            if visible[row]:
                kept.append((row, label))
            if len(kept) >= rule.max_detections:
                break
    return kept


def _best_first(values: Any, least: float) -> Iterator[int]:
    """Yield the positions of values from ``least`` on, highest first; of equal ones in order."""
    import numpy as np

    size = done = 0
    while size < len(values):
        size = min(max(8 * size, _FIRST), len(values))
        # With all that equal the last one: so that no later turn brings one of them.
        bound = max(np.partition(values, -size)[-size], least)
        found = np.flatnonzero(values >= bound)
        order = found[np.argsort(-values[found], kind="stable")]
        yield from map(int, order[done:])
        done = len(order)
        if bound <= least:
            return


def _most_overlap(box: Any, others: Any) -> float:
    """Return the largest intersection over union of a box with others; 0 for empty boxes."""
    import numpy as np

    shared = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inner = np.prod(np.maximum(shared, 0), axis=1)
    area = np.prod(box[2:] - box[:2])
    union = area + np.prod(others[:, 2:] - others[:, :2], axis=1) - inner
    return float(np.max(np.where(union > 0, inner / np.where(union > 0, union, 1), 0)))
