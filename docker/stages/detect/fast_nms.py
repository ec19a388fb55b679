"""Select the boxes that TFLite's detection operator keeps, in numpy.

The operator (``TFLite_Detection_PostProcess`` with ``use_regular_nms`` off, as exported) keeps
one class of each box and suppresses overlapping boxes whatever their classes. The Object
Detection API's own post-processing suppresses within each class; so does the operator with
``use_regular_nms``. To compare *numbers* with an artefact, the checkpoint's predictions go through
the operator's rule too; implemented from the operator's documentation and source
(``detection_postprocess.cc``), not run by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def keep(
    boxes: Any, scores: Any, suppression: Mapping[str, Any], limit: int
) -> list[tuple[int, int]]:
    """Suppress overlapping boxes by the operator's options.

    Args:
        boxes: as in :func:`select`.
        scores: as in :func:`select`.
        suppression: ``regular`` (within each class), ``score_threshold`` (None: none),
            ``iou_threshold``, ``detections_per_class``, as an export reports them.
        limit: how many to keep.

    Returns:
        (row of the box, class from 0), best score first.
    """
    least, most = suppression["score_threshold"], suppression["iou_threshold"]
    least = float("-inf") if least is None else least
    if not suppression["regular"]:
        return select(boxes, scores, least, most, limit)
    return select_by_class(boxes, scores, least, most, suppression["detections_per_class"], limit)


def select(
    boxes: Any, scores: Any, score_threshold: float, iou_threshold: float, limit: int
) -> list[tuple[int, int]]:
    """Suppress overlapping boxes greedily, across classes.

    Args:
        boxes: float32 [boxes, 4], decoded: ymin, xmin, ymax, xmax.
        scores: float32 [boxes, classes], background not among them.
        score_threshold: boxes whose best score is below are left out.
        iou_threshold: of two boxes that overlap by more, the one with the lower score is dropped.
        limit: how many to keep.

    Returns:
        (row of the box, class from 0), best score first; of equal scores the lower row.
    """
    import numpy as np

    classes = np.argmax(scores, axis=1)
    best = scores[np.arange(len(scores)), classes]
    order = np.argsort(-best, kind="stable")
    kept: list[tuple[int, int]] = []
    for row in order[best[order] >= score_threshold]:
        if len(kept) == limit:
            break
        rows = [other for other, _ in kept]
        if not rows or np.max(_overlap(boxes[row], boxes[rows])) <= iou_threshold:
            kept.append((int(row), int(classes[row])))
    return kept


def select_by_class(
    boxes: Any,
    scores: Any,
    score_threshold: float,
    iou_threshold: float,
    limit_of_class: int,
    limit: int,
) -> list[tuple[int, int]]:
    """Suppress overlapping boxes greedily, within each class
    (``NonMaxSuppressionMultiClassRegularHelper`` of ``detection_postprocess.cc``).

    Args:
        boxes: as in :func:`select`.
        scores: as in :func:`select`.
        score_threshold: of a class; boxes below it are left out.
        iou_threshold: as in :func:`select`, of two boxes of one class.
        limit_of_class: how many of a class to keep.
        limit: how many to keep of all classes.

    Returns:
        (row of the box, class from 0), best score first; of equal scores the lower class.
    """
    most = min(limit_of_class, limit)
    kept = [
        (row, label)
        for label in range(scores.shape[1])
        for row, _ in select(
            boxes, scores[:, label : label + 1], score_threshold, iou_threshold, most
        )
    ]
    kept.sort(key=lambda item: -scores[item])  # stable
    return kept[:limit]


def _overlap(box: Any, others: Any) -> Any:
    """Compute intersection over union of one box with each of the others; 0 for empty boxes."""
    import numpy as np

    height = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    width = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = np.maximum(height, 0) * np.maximum(width, 0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = area + areas - shared
    valid = (area > 0) & (areas > 0)
    return np.where(valid, shared / np.where(valid, union, 1), 0)
