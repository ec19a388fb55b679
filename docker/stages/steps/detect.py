"""Stage: run an artefact on images by its own metadata only (:mod:`stages.detect.detector`)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from stages.detect import detector
from stages.files import feeding, pixels
from stages.protocol.failures import StageError

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {
    "max_results": None,  # of each image, the best ones; None: all
    "score_threshold": None,  # 0..1; None: what the metadata declares, else 0
    "fit": None,  # "letterbox" or "stretch"; None: as the file describes it
    "reference_kernels": False,  # see stages.detect.detector.make_interpreter
}

RESULT_FILE = "detections.json"


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Detect objects in every image of the folder ``inputs["images"]`` with ``inputs["model"]``.

    Writes ``out/detections.json``: ``{"images": {file name: [detection, ...]}}`` with files by
    name and detections as :meth:`stages.detect.detector.Detector.detect` orders them.

    Returns:
        Facts: ``images``, ``detections`` (how many), ``input`` (height, width, type),
        ``normalization`` (as declared), ``feeding`` (as used, :mod:`stages.files.feeding`),
        ``labels`` (lines), ``score_threshold``, ``runtime``.

    Raises:
        StageError: kinds ``image-set``, ``unsupported-model``, ``stage-failed``.
    """
    limit, threshold = _check(params["max_results"], params["score_threshold"])
    fit = params["fit"]
    if fit not in (None, feeding.LETTERBOX, feeding.STRETCH):
        raise StageError("stage-failed", f"'fit' is {fit!r}; expected letterbox or stretch.")
    images = pixels.list_images(inputs["images"])
    emit.progress(0, len(images), "loading the interpreter")
    model = detector.Detector(inputs["model"].read_bytes(), params["reference_kernels"])
    if threshold is None:
        threshold = model.score_threshold or 0.0
    how = model.feeding if fit in (None, model.feeding.fit) else feeding.usual(fit, model.feeding)
    found: dict[str, list[dict[str, Any]]] = {}
    for done, path in enumerate(images):
        emit.progress(done, len(images), path.name)
        found[path.name] = model.detect(pixels.load_rgb(path), threshold, limit, how=how)
    text = json.dumps({"images": found}, indent=1, ensure_ascii=False, allow_nan=False)
    (out / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    image = model.metadata.inputs[0]
    return {
        "images": len(images),
        "detections": sum(len(items) for items in found.values()),
        "input": {"height": model.height, "width": model.width, "type": model.input_type},
        "normalization": {"mean": list(image.mean), "std": list(image.std)},
        "feeding": how.as_fact(),
        "labels": len(model.labels),
        "score_threshold": threshold,
        "runtime": model.runtime,
    }


def _check(limit: Any, threshold: Any) -> tuple[Any, Any]:
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise StageError(
            "stage-failed", f"'max_results' is {limit!r}; expected a whole number from 1."
        )
    if threshold is not None:
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not number or not math.isfinite(threshold) or not 0 <= threshold <= 1:
            raise StageError(
                "stage-failed", f"'score_threshold' is {threshold!r}; expected 0 to 1."
            )
    return limit, threshold
