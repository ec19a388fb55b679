"""Compute COCO's measures of a detector with COCO's own code (pycocotools)."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiln.core.errors import ImageSetError, UsageError
from kiln.measure.coco import Annotated, Picture

#: Number of best detections of an image that count (COCOeval's ``maxDets``).
DETECTIONS = 100

# Positions in COCOeval.stats after summarize() with its default parameters.
_AP, _AP50, _AP75, _AR100 = 0, 1, 2, 8

#: Packages that only `kiln accuracy` imports.
_MODULES = ("numpy", "PIL", "pycocotools")


@dataclass(frozen=True)
class Scores:
    """Four of COCO's figures, each from 0 to 1.

    Attributes:
        ap: mean over classes and over IoU thresholds 0.5, 0.55, ... 0.95 of the area under the
            precision-recall curve, sampled at 101 recalls.
        ap50: the same at IoU 0.5 only.
        ap75: the same at IoU 0.75 only.
        ar100: mean over classes and IoU thresholds of the highest recall with 100 detections an
            image.
    """

    ap: float
    ap50: float
    ap75: float
    ar100: float


@dataclass(frozen=True)
class Detection:
    """A detection; ``box`` is [ymin, xmin, ymax, xmax] as fractions of the image."""

    picture: int
    category: int
    box: Sequence[float]
    score: float


def require() -> None:
    """Check that all packages are installed, before hours of work begin.

    Raises:
        UsageError: a package is not installed; the remedy says how to install it.
    """
    missing = [name for name in _MODULES if _missing(name)]
    if missing:
        names = ", ".join("pillow" if name == "PIL" else name for name in missing)
        raise UsageError(
            f"Measuring needs packages that are not installed: {names}.",
            "Install them with kiln's extra, `pip install 'tflite-kiln[accuracy]'`, or, in a "
            "checkout, with `make dev`.",
        )


def score(
    pictures: Iterable[Picture],
    objects: Iterable[Annotated],
    categories: Iterable[int],
    found: Iterable[Detection],
) -> Scores:
    """Score detections with COCOeval.

    Only ``pictures`` and ``categories`` count: objects and detections of others are left out.
    Boxes are clipped to their image: TFLite's detection operator does not do it, but the source
    models and applications that draw boxes do.

    Raises:
        ImageSetError: these pictures have no annotated object.
    """
    sizes = {picture.id: (picture.height, picture.width) for picture in pictures}
    kinds = sorted(set(categories))
    truth = [item for item in objects if item.picture in sizes and item.category in kinds]
    if all(item.crowd for item in truth):
        raise ImageSetError(
            "None of these images has an annotated object of a class that the model knows.",
            "Measure more images, or use the data set that the model was made for.",
        )
    results = [
        {
            "image_id": item.picture,
            "category_id": item.category,
            "bbox": _pixels(item.box, *sizes[item.picture]),
            "score": item.score,
        }
        for item in found
        if item.picture in sizes and item.category in kinds
    ]
    if not results:  # loadRes refuses an empty list
        return Scores(0.0, 0.0, 0.0, 0.0)
    coco: Any = importlib.import_module("pycocotools.coco").COCO()
    coco.dataset = {
        "images": [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
        "annotations": [_as_dict(number, item) for number, item in enumerate(truth, 1)],
        "categories": [{"id": kind} for kind in kinds],
    }
    evaluate: Any = importlib.import_module("pycocotools.cocoeval").COCOeval
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a page
        coco.createIndex()
        evaluation = evaluate(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats]
    return Scores(stats[_AP], stats[_AP50], stats[_AP75], stats[_AR100])


def detections(
    images: Mapping[str, Sequence[Mapping[str, Any]]],
    pictures: Iterable[Picture],
    categories: Mapping[int, int],
) -> list[Detection]:
    """Convert a stage's output for :func:`score`.

    Args:
        images: file name to detections, as stages write them (``box``, ``score``, ``class_id``).
        pictures: those images, by the names the stage saw.
        categories: class id to category id; detections of other classes are left out.
    """
    return [
        Detection(picture.id, categories[item["class_id"]], item["box"], item["score"])
        for picture in pictures
        for item in images[picture.name][:DETECTIONS]
        if item["class_id"] in categories
    ]


def _missing(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return True
    return False


def _pixels(box: Sequence[float], height: int, width: int) -> list[float]:
    """Convert [ymin, xmin, ymax, xmax] in fractions to COCO's [x, y, width, height], clipped."""
    ymin, xmin, ymax, xmax = (min(max(side, 0.0), 1.0) for side in box)
    return [
        xmin * width,
        ymin * height,
        max(xmax - xmin, 0.0) * width,
        max(ymax - ymin, 0.0) * height,
    ]


def _as_dict(number: int, item: Annotated) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": item.picture,
        "category_id": item.category,
        "bbox": list(item.box),
        "area": item.area,
        "iscrowd": int(item.crowd),
    }
