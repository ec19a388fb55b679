"""Stage: run an exported SavedModel itself, before any conversion.

It corresponds to :mod:`stages.steps.reference` for models without a checkpoint: the graph runs in
TensorFlow (:mod:`stages.saved.saved_model_detector`). Where only the user stated the normalisation,
it is checked against the graph's statistics (:mod:`stages.saved.saved_model_statistics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from stages.detect.enough import Enough
from stages.files import pixels
from stages.files.normalizations import KNOWN, Normalization, named, three
from stages.gates import stated_normalization
from stages.odapi import resizing
from stages.protocol.request import REQUIRED
from stages.saved import saved_model_graph, saved_model_statistics
from stages.saved.saved_model_detector import opened
from stages.steps import reference, saved_model

ENVIRONMENT = "main"

PARAMS = {
    "normalization": REQUIRED,  # {"mean": [r, g, b], "std": [r, g, b]}, as the graph wants them
    "normalization_from": REQUIRED,  # where it is stated (stages.steps.saved_model)
    # Its own resizer (stages.odapi.resizing.as_text); None: not known, images are stretched.
    "resizer": None,
    "crops": False,  # add images that are not square (stages.files.pixels.pictures)
    "enough": None,  # for a large input, leave images out: see stages.detect.enough.PARAM
    "weights": None,  # how many numbers its variables hold; passed on
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the folder ``inputs["saved_model"]`` on ``inputs["images"]``.

    Images are resized by the Object Detection API's own resizer where its configuration is known,
    else stretched by ``tf.image.resize``.

    Writes ``out/detections.json`` (:func:`stages.steps.reference.write`). Of an SSD-like graph
    ``images`` and ``as_tflite`` are the same: what TFLite's detection operator makes of its
    predictions is the only post-processing there is.

    Returns:
        Facts: ``checkpoint``, ``input`` (height and width in pixels), ``max_detections``,
        ``images`` (how many), ``weights``, ``normalizations``: where the normalisation was
        ``given``, a list of ``mean``, ``std`` and ``distance``
        (:func:`stages.saved.saved_model_statistics.distances`), the nearest first; else None.

    Raises:
        StageError: see :mod:`stages.saved.saved_model_graph`; or an image cannot be read.
    """
    total = len(pixels.list_images(inputs["images"]))
    folder = inputs["saved_model"]
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    graph = saved_model_graph.read(folder)
    fact = params["normalization"]
    norm = three(tuple(fact["mean"]), tuple(fact["std"]))
    said = params["normalization_from"] == saved_model.GIVEN
    found = reference.Found()
    # A normalisation that nobody but the user knows is judged by as many images as there are.
    enough = Enough(None if said else params["enough"], graph.height, graph.width)
    images = []  # only if needed again: there may be thousands
    resize = resizing.stretched(graph.height, graph.width)
    if params["resizer"] is not None:
        resize = resizing.authors_own(params["resizer"])
    with opened(folder, graph) as detector:
        for number, (name, image) in enumerate(enough.pictures(inputs["images"], params["crops"])):
            emit.progress(min(number, total), total, name)
            # As the API's models do: SSD normalises before it resizes and pads. (CenterNet's
            # graph normalises itself.)
            values = pixels.normalize(image.astype("float32"), norm.mean, norm.std)
            tensor, covered = resize(values)
            if said:
                images.append(tensor * norm.std + norm.mean)
            detections = detector.detect(tensor)
            found.note_end(name, detections, graph.max_detections)
            enough.note(detections)
            found.lists[name] = _in_photograph(detections, covered, tensor.shape)
    reference.write(
        out,
        images=found,
        as_tflite=None if graph.postprocess is None else found,
        suppression=_suppression(graph),
    )
    tried = None
    if said:
        emit.progress(total, total, "checking its first batch norm")
        tried = _tried(folder, graph, images, norm)
        if not tried or not stated_normalization.confirmed(tried, norm):
            emit.warning(
                f"nothing in its graph confirms that it wants {named(norm)}, as was said; its"
                " pipeline.config would"
            )
    emit.progress(total, total, "done")
    return {
        "checkpoint": saved_model.NAME,
        "input": {"height": graph.height, "width": graph.width},
        "max_detections": graph.max_detections,
        "images": len(found.lists),
        "weights": params["weights"],
        "normalizations": tried,
    }


def _in_photograph(
    found: list[dict[str, Any]], covered: tuple[int, int], shape: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Convert boxes from fractions of the input to fractions of the photograph."""
    down, across = shape[0] / covered[0], shape[1] / covered[1]
    mapped = [
        {**item, "box": [side * by for side, by in zip(item["box"], [down, across] * 2)]}
        for item in found
    ]
    return mapped if down == across == 1 else reference.inside(mapped)


def _suppression(graph: saved_model_graph.SavedGraph) -> Optional[dict[str, Any]]:
    if graph.postprocess is None:
        return None
    own = graph.postprocess
    return {
        "iou": own.iou_threshold,
        "sigma": 0.0,
        "across_classes": not own.use_regular_nms,
        "score": own.score_threshold,
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
