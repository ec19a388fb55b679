"""Stage: two artefacts on the same images, each run by its own metadata, and how they differ."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Optional

from stages import detector, matching, pixels
from stages.failures import StageError

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {
    # Detections below are background noise, of which another rounding keeps another part; 0.2 is
    # also what the zoo's CenterNet calls a detection (min_score_threshold).
    "score_threshold": 0.2,
}

RESULT_FILE = "comparison.json"

_COUNTERPART = 0.5  # times the threshold: the least score of a counterpart
_DIGITS = 6  # of the figures in facts


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run ``inputs["prebuilt"]`` and ``inputs["converted"]`` on the folder ``inputs["images"]``.

    A detection is compared where its score reaches the threshold. Its counterpart
    (:func:`stages.matching.match`) may be half as sure: a score can lie just above the threshold
    here and just below it there.

    Writes ``out/comparison.json``: ``{"images": {file name: figures, "missed" and "extra" with
    the detections themselves}, "overall": figures}``.

    Returns:
        Facts: ``score_threshold``; ``overall`` and ``images`` (file name -> figures), where
        figures are ``pairs`` (detections found by both), ``mean_iou``, ``min_iou``,
        ``max_score_difference`` (of the pairs; None without any), ``missed`` (found by
        ``prebuilt`` only) and ``extra`` (by ``converted`` only); ``inputs``: of each artefact its
        height, width and type.

    Raises:
        StageError: kinds ``image-set``, ``unsupported-model``, ``stage-failed``.
    """
    threshold = _check(params["score_threshold"])
    files = pixels.list_images(inputs["images"])
    emit.progress(0, len(files), "loading the interpreter")
    prebuilt = detector.load(inputs["prebuilt"])
    converted = detector.load(inputs["converted"])
    images: dict[str, Any] = {}
    for done, path in enumerate(files):
        emit.progress(done, len(files), path.name)
        image = pixels.load_rgb(path)
        images[path.name] = compare(prebuilt.detect(image), converted.detect(image), threshold)
    overall = together(list(images.values()))
    text = json.dumps(
        {"images": {name: _written(found) for name, found in images.items()}, "overall": overall},
        indent=1,
        ensure_ascii=False,
        allow_nan=False,
    )
    (out / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    emit.progress(len(files), len(files), "done")
    apart = overall["missed"] + overall["extra"]
    if apart > overall["pairs"]:
        emit.warning(
            f"the ready-made file and the converted one disagree: {overall['pairs']} detections"
            f" in common, {overall['missed']} only in the first, {overall['extra']} only in the"
            " second"
        )
    return {
        "score_threshold": threshold,
        "overall": overall,
        "images": {name: _figures(found) for name, found in images.items()},
        "inputs": {
            name: {"height": model.height, "width": model.width, "type": model.input_type}
            for name, model in (("prebuilt", prebuilt), ("converted", converted))
        },
    }


def compare(
    prebuilt: list[dict[str, Any]], converted: list[dict[str, Any]], threshold: float
) -> dict[str, Any]:
    """Compare what two artefacts find in one image.

    Args:
        prebuilt: all detections of the first, as :meth:`stages.detector.Detector.detect` gives.
        converted: of the second.
        threshold: least score of a detection that counts.

    Returns:
        ``ious`` and ``score_differences`` of the pairs, and the detections ``missed`` and
        ``extra``.
    """
    prebuilt, converted = (
        [item for item in found if item["score"] >= _COUNTERPART * threshold]
        for found in (prebuilt, converted)
    )
    pairs = matching.match(prebuilt, converted)
    counted = [
        pair
        for pair in pairs
        if max(prebuilt[pair.left]["score"], converted[pair.right]["score"]) >= threshold
    ]
    paired = ({pair.left for pair in pairs}, {pair.right for pair in pairs})
    missed, extra = (
        [
            item
            for position, item in enumerate(found)
            if position not in taken and item["score"] >= threshold
        ]
        for found, taken in zip((prebuilt, converted), paired)
    )
    return {
        "ious": [pair.iou for pair in counted],
        "score_differences": [
            abs(prebuilt[pair.left]["score"] - converted[pair.right]["score"]) for pair in counted
        ],
        "missed": missed,
        "extra": extra,
    }


def _figures(found: dict[str, Any]) -> dict[str, Any]:
    ious, differences = found["ious"], found["score_differences"]
    return {
        "pairs": len(ious),
        "mean_iou": _rounded(sum(ious) / len(ious)) if ious else None,
        "min_iou": _rounded(min(ious, default=None)),
        "max_score_difference": _rounded(max(differences, default=None)),
        "missed": len(found["missed"]),
        "extra": len(found["extra"]),
    }


def together(images: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several images, each as :func:`compare` returns it, as one."""
    names = ("ious", "score_differences", "missed", "extra")
    return _figures({name: [item for found in images for item in found[name]] for name in names})


def _written(found: dict[str, Any]) -> dict[str, Any]:
    return {**_figures(found), "missed": found["missed"], "extra": found["extra"]}


def _rounded(value: Optional[float]) -> Optional[float]:
    return None if value is None else round(float(value), _DIGITS)


def _check(threshold: Any) -> float:
    number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if not number or not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise StageError(
            "stage-failed", f"'score_threshold' is {threshold!r}; expected a number from 0 to 1."
        )
    return float(threshold)
