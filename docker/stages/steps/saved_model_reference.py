"""Stage: run an exported SavedModel itself, before any conversion.

It corresponds to :mod:`stages.steps.reference` for models without a checkpoint: the graph runs in
TensorFlow (:mod:`stages.saved.saved_model_detector`). Where only the user stated the normalisation,
it is checked against the graph's statistics (:mod:`stages.saved.saved_model_statistics`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from stages.files import pixels
from stages.files.normalizations import KNOWN, Normalization, named, three
from stages.gates import stated_normalization
from stages.protocol.request import REQUIRED
from stages.saved import saved_model_graph, saved_model_statistics
from stages.saved.saved_model_detector import opened
from stages.steps import saved_model

ENVIRONMENT = "main"

PARAMS = {
    "normalization": REQUIRED,  # {"mean": [r, g, b], "std": [r, g, b]}, as the graph wants them
    "normalization_from": REQUIRED,  # where it is stated (stages.steps.saved_model)
    "weights": None,  # how many numbers its variables hold; passed on
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the folder ``inputs["saved_model"]`` on ``inputs["images"]``.

    Writes ``out/detections.json`` as :func:`stages.steps.reference.run` does, and takes images as
    it does. Of an SSD-like graph ``images`` and ``as_tflite`` are the same: what TFLite's detection
    operator makes of its predictions is the only post-processing there is.

    Returns:
        Facts: ``checkpoint``, ``input`` (height and width in pixels), ``max_detections``,
        ``images`` (how many), ``weights``, ``normalizations``: where the normalisation was
        ``given``, a list of ``mean``, ``std`` and ``distance``
        (:func:`stages.saved.saved_model_statistics.distances`), the nearest first; else None.

    Raises:
        StageError: see :mod:`stages.saved.saved_model_graph`; or an image cannot be read.
    """
    files = pixels.list_images(inputs["images"])
    folder = inputs["saved_model"]
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    graph = saved_model_graph.read(folder)
    fact = params["normalization"]
    norm = three(tuple(fact["mean"]), tuple(fact["std"]))
    said = params["normalization_from"] == saved_model.GIVEN
    found: dict[str, Any] = {}
    images = []  # only if needed again: there may be thousands
    with opened(folder, graph) as detector:
        for number, path in enumerate(files):
            emit.progress(number, len(files), path.name)
            image = pixels.resize_bilinear(pixels.load_rgb(path), graph.height, graph.width)
            if said:
                images.append(image)
            found[path.name] = detector.detect(pixels.normalize(image, norm.mean, norm.std))
    result = {"images": found, "as_tflite": None if graph.postprocess is None else found}
    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    (out / "detections.json").write_text(text + "\n", encoding="utf-8")
    tried = None
    if said:
        emit.progress(len(files), len(files), "checking its first batch norm")
        tried = _tried(folder, graph, images, norm)
        if not tried or not stated_normalization.confirmed(tried, norm):
            emit.warning(
                f"nothing in its graph confirms that it wants {named(norm)}, as was said; its"
                " pipeline.config would"
            )
    emit.progress(len(files), len(files), "done")
    return {
        "checkpoint": saved_model.NAME,
        "input": {"height": graph.height, "width": graph.width},
        "max_detections": graph.max_detections,
        "images": len(files),
        "weights": params["weights"],
        "normalizations": tried,
    }


def _tried(
    folder: Path, graph: saved_model_graph.SavedGraph, images: Sequence[Any], own: Normalization
) -> Optional[list[dict[str, Any]]]:
    norms = [own, *(norm for norm in KNOWN if own.difference(norm) > 1e-3)]
    found = saved_model_statistics.distances(folder, graph, images, norms)
    if found is None:
        return None
    return [
        {**norm.as_fact(), "distance": float(f"{found[norm]:.4g}")}
        for norm in sorted(norms, key=lambda norm: found[norm])
    ]
