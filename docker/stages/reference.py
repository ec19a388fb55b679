"""Stage: what the source model itself finds, before any export or conversion.

The checkpoint is restored into the Object Detection API's model, and its own ``preprocess``,
``predict`` and ``postprocess`` are run eagerly. Nothing of the export takes part, so this is
what an artefact is compared with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages import detection_model, fast_nms, pipeline, pixels, restoration
from stages.checkpoint_files import find_checkpoint

ENVIRONMENT = "main"

PARAMS = {
    "max_detections": None,  # int; None: what the model's own post-processing keeps
    "image_size": None,  # [height, width] in pixels; None: the model's own (as in export)
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the model folder ``inputs["checkpoint"]`` on ``inputs["images"]``.

    An image is decoded to RGB, resized to the model's input
    (:func:`stages.pixels.resize_bilinear`; not rounded to whole pixel values), and given to
    ``preprocess`` as float32, 0 to 255.

    Writes ``out/detections.json``: ``{"images": {file name: [{"box", "score", "class_id"}]},
    "as_tflite": the same, or null}``. ``box`` is [ymin, xmin, ymax, xmax] as fractions of the
    image, ``class_id`` the label map's id (from 1); best score first.

    ``images`` is what the model's own post-processing says (boxes clipped to the image).
    ``as_tflite`` (SSD only) puts the same predictions through the rule of TFLite's detection
    operator (:mod:`stages.fast_nms`; boxes not clipped): that operator keeps one class a box and
    suppresses across classes, so only this list has the same boxes as an artefact.

    Returns:
        Facts: ``checkpoint``, ``input`` (height and width in pixels), ``max_detections``,
        ``images`` (how many), ``variables`` (restored and compared), ``weights`` (numbers in
        them), ``untrained`` (reasons, in words, to think that it was never trained).

    Raises:
        StageError: see :mod:`stages.export`; or an image cannot be read.
    """
    folder = inputs["checkpoint"]
    prefix = find_checkpoint(folder)
    files = pixels.list_images(inputs["images"])
    from stages import tensorflow_setup

    tf = tensorflow_setup.load()
    config = pipeline.read_pipeline(folder)
    size = pipeline.fix_image_size(config, params["image_size"])
    count = pipeline.set_max_detections(config, params["max_detections"])
    restoration.open_checkpoint(prefix)
    model = detection_model.build(config)
    detection_model.create_variables(model, size)
    variables = restoration.restore(model, prefix)

    own: dict[str, Any] = {}
    as_tflite: dict[str, Any] = {}
    for number, path in enumerate(files):
        emit.progress(number, len(files), path.name)
        image = pixels.resize_bilinear(pixels.load_rgb(path), *size)
        tensor, shapes = model.preprocess(tf.constant(image[None]))
        predictions = model.predict(tensor, shapes)
        own[path.name] = _own(model.postprocess(predictions, shapes))
        if config.model.WhichOneof("model") == "ssd":
            as_tflite[path.name] = _as_tflite(model, predictions, config, count)
    result = {"images": own, "as_tflite": as_tflite or None}
    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    (out / "detections.json").write_text(text + "\n", encoding="utf-8")
    emit.progress(len(files), len(files), "done")
    return {
        "checkpoint": prefix.name,
        "input": {"height": size[0], "width": size[1]},
        "max_detections": count,
        "images": len(files),
        "variables": variables,
        "weights": weights(restoration.object_paths(model).values()),
        "untrained": detection_model.untrained(model),
    }


def weights(variables: Iterable[Any]) -> int:
    """How many numbers variables hold."""
    return sum(math.prod(variable.shape.as_list()) for variable in variables)


def _own(outputs: Any) -> list[dict[str, Any]]:
    count = int(outputs["num_detections"][0])
    boxes = outputs["detection_boxes"][0, :count].numpy()
    scores = outputs["detection_scores"][0, :count].numpy()
    classes = outputs["detection_classes"][0, :count].numpy()
    found = [
        _detection(box, score, round(float(label)))
        for box, score, label in zip(boxes, scores, classes)
    ]
    return sorted(found, key=lambda item: -item["score"])


def _as_tflite(model: Any, predictions: Any, config: Any, count: int) -> list[dict[str, Any]]:
    # The three lines of SSDMetaArch.postprocess before its own suppression.
    boxes = model._batch_decode(predictions["box_encodings"], predictions["anchors"])[0]
    scores = model._score_conversion_fn(predictions["class_predictions_with_background"])
    scores = scores[0, :, 1:].numpy() if model._add_background_class else scores[0].numpy()
    boxes = boxes[0].numpy().reshape(-1, 4)
    suppression = config.model.ssd.post_processing.batch_non_max_suppression
    kept = fast_nms.select(
        boxes, scores, suppression.score_threshold, suppression.iou_threshold, count
    )
    return [_detection(boxes[row], scores[row, label], label) for row, label in kept]


def _detection(box: Any, score: Any, label: int) -> dict[str, Any]:
    # The model counts classes from 0, label maps from 1.
    return {"box": [float(side) for side in box], "score": float(score), "class_id": label + 1}
