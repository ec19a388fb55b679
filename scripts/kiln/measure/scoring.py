"""Compute COCO's measures of a detector with COCO's own code (pycocotools)."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kiln.core.errors import ImageSetError, UsageError
from kiln.measure.coco import Annotated, Picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
class Ranked:
    """All detections of one class, best score first, as COCOeval matched them with objects.

    Attributes:
        pictures: the number of each detection's image.
        right: for each IoU threshold, whether a detection matches an object that counts.
        ignored: the same for a detection that does not count: it matches a crowd.
        objects: how many objects that count each image has.
    """

    pictures: NDArray[np.intp]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """Figures, and the matches that they are made of.

    Attributes:
        ranked: one for each class; images are numbered by ascending id.
        images: how many there are.
    """

    scores: Scores
    ranked: tuple[Ranked, ...]
    images: int


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


def evaluate(
    pictures: Iterable[Picture],
    objects: Iterable[Annotated],
    categories: Iterable[int],
    found: Iterable[Detection],
) -> Evaluation:
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
    results = []
    for item in found:
        if item.picture in sizes and item.category in kinds:
            x, y, width, height = _pixels(item.box, *sizes[item.picture])
            results.append(
                {
                    "image_id": item.picture,
                    "category_id": item.category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "score": item.score,
                    "iscrowd": 0,
                }
            )
    evaluation = _evaluation(sizes, kinds, [_as_dict(item) for item in truth], results)
    stats = [float(value) for value in evaluation.stats]
    # An entry for each class and image, those of a class together.
    entries = evaluation.evalImgs
    rows = [entries[start : start + len(sizes)] for start in range(0, len(entries), len(sizes))]
    return Evaluation(
        Scores(stats[_AP], stats[_AP50], stats[_AP75], stats[_AR100]),
        tuple(_ranked(row) for row in rows if any(entry is not None for entry in row)),
        len(sizes),
    )


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


def _evaluation(
    sizes: Mapping[int, tuple[int, int]],
    kinds: Sequence[int],
    truth: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
) -> Any:
    """Return a finished COCOeval of objects of any size."""
    make: Any = importlib.import_module("pycocotools.coco").COCO
    evaluate: Any = importlib.import_module("pycocotools.cocoeval").COCOeval
    sides = []
    for entries in (truth, results):
        side = make()
        side.dataset = {
            "images": [{"id": i, "height": h, "width": w} for i, (h, w) in sizes.items()],
            "annotations": [{"id": number, **item} for number, item in enumerate(entries, 1)],
            "categories": [{"id": kind} for kind in kinds],
        }
        sides.append(side)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a page
        for side in sides:
            side.createIndex()
        evaluation = evaluate(*sides, "bbox")
        # Not also small, medium and large ones: they take three quarters of the time and memory.
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _ranked(entries: Sequence[Mapping[str, Any] | None]) -> Ranked:
    """Rank the detections of one class.

    Args:
        entries: what COCOeval says of each image; None where it has neither an object nor a
            detection of the class. Not all are None.
    """
    import numpy as np

    objects = np.zeros(len(entries), np.int64)
    pictures, scores, matched, ignored = [], [], [], []
    for number, entry in enumerate(entries):
        if entry is not None:
            objects[number] = np.count_nonzero(entry["gtIgnore"] == 0)
            pictures.append(np.full(len(entry["dtScores"]), number, np.intp))
            scores.append(np.asarray(entry["dtScores"], np.float64))
            matched.append(entry["dtMatches"] > 0)
            ignored.append(entry["dtIgnore"] > 0)
    order = np.argsort(-np.concatenate(scores), kind="stable")  # equal scores: by image
    uncounted = np.concatenate(ignored, axis=1)[:, order]
    return Ranked(
        pictures=np.concatenate(pictures)[order],
        right=np.concatenate(matched, axis=1)[:, order] & ~uncounted,
        ignored=uncounted,
        objects=objects,
    )


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


def _as_dict(item: Annotated) -> dict[str, Any]:
    return {
        "image_id": item.picture,
        "category_id": item.category,
        "bbox": list(item.box),
        "area": item.area,
        "iscrowd": int(item.crowd),
    }
