"""Stage: compare two artefacts on the same images, each run by its own metadata."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from stages.detect import detector
from stages.detect.matching import compare, figures, together
from stages.files import pixels
from stages.protocol.failures import StageError

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {
    # Detections below are background noise, of which another rounding keeps another part; 0.2 is
    # also what the zoo's CenterNet calls a detection (min_score_threshold).
    "score_threshold": 0.2,
}

RESULT_FILE = "comparison.json"


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run ``inputs["prebuilt"]`` and ``inputs["converted"]`` on the folder ``inputs["images"]``.

    A detection is compared where its score reaches the threshold. Its counterpart
    (:func:`stages.detect.matching.match`) may have half that score: a score can be just above the
    threshold here and just below it there.

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
        "images": {name: figures(found) for name, found in images.items()},
        "inputs": {
            name: {"height": model.height, "width": model.width, "type": model.input_type}
            for name, model in (("prebuilt", prebuilt), ("converted", converted))
        },
    }


def _written(found: dict[str, Any]) -> dict[str, Any]:
    return {**figures(found), "missed": found["missed"], "extra": found["extra"]}


def _check(threshold: Any) -> float:
    number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if not number or not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise StageError(
            "stage-failed", f"'score_threshold' is {threshold!r}; expected a number from 0 to 1."
        )
    return float(threshold)
