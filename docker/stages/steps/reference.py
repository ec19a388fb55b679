"""Stage: run the source model itself, before any export or conversion.

The checkpoint is restored into the Object Detection API's model, and its own ``preprocess``,
``predict`` and ``postprocess`` run eagerly. Nothing exported is involved, so artefacts are compared
with this. (The Python object that the export built for the same configuration may be reused: its
variables are restored and compared with the checkpoint again.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.detect import fast_nms
from stages.files import pixels
from stages.files.checkpoint_files import find_checkpoint
from stages.odapi import detection_model, pipeline, restoration

ENVIRONMENT = "main"

PARAMS = {
    "max_detections": None,  # int; None: what the model's own post-processing keeps
    "image_size": None,  # [height, width] in pixels; None: the model's own (as in export)
    # As in export; of ``as_tflite`` alone.
    "regular_nms": False,
    "nms_score_threshold": None,
    "nms_iou_threshold": None,
    "max_detections_per_class": None,
}

BATCH = 8
"""Images at a time: for a single one, eager TensorFlow mostly waits between operations."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the model folder ``inputs["checkpoint"]`` on ``inputs["images"]``.

    An image is decoded to RGB, resized to the model's input
    (:func:`stages.files.pixels.resize_bilinear`; not rounded to whole pixel values), and given to
    ``preprocess`` as float32, 0 to 255.

    Writes ``out/detections.json``: ``{"images": {file name: [{"box", "score", "class_id"}]},
    "as_tflite": the same, or null}``. ``box`` is [ymin, xmin, ymax, xmax] as fractions of the
    image, ``class_id`` the label map's id (from 1); best score first.

    ``images`` is what the model's own post-processing says (boxes clipped to the image).
    ``as_tflite`` (SSD only) puts the same predictions through the rule of TFLite's detection
    operator (:mod:`stages.detect.fast_nms`; boxes not clipped), with the options that the export
    gives it: unless it is told otherwise, that operator keeps one class a box and suppresses across
    classes, so only this list has the same boxes as an artefact.

    Returns:
        Facts: ``checkpoint``, ``input`` (height and width in pixels), ``max_detections``,
        ``images`` (how many), ``variables`` (restored and compared), ``weights`` (numbers in
        them), ``untrained`` (texts: reasons to think that it was never trained).

    Raises:
        StageError: see :mod:`stages.steps.export`; or an image cannot be read.
    """
    folder = inputs["checkpoint"]
    prefix = find_checkpoint(folder)
    files = pixels.list_images(inputs["images"])
    import numpy as np

    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    config = pipeline.read_pipeline(folder)
    size = pipeline.fix_image_size(config, params["image_size"])
    count = pipeline.set_max_detections(config, params["max_detections"])
    suppression = pipeline.built_suppression(config, params)
    restoration.open_checkpoint(prefix)
    model = detection_model.built(config, size)
    variables = restoration.restore(model, prefix)

    own: dict[str, Any] = {}
    as_tflite: dict[str, Any] = {}
    for start in range(0, len(files), BATCH):
        paths = files[start : start + BATCH]
        emit.progress(start, len(files), paths[0].name)
        images = np.stack([pixels.resize_bilinear(pixels.load_rgb(path), *size) for path in paths])
        tensor, shapes = model.preprocess(tf.constant(images))
        predictions = model.predict(tensor, shapes)
        own.update(zip(names(paths), _own(model.postprocess(predictions, shapes))))
        if suppression is not None:
            found = _as_tflite(model, predictions, suppression, count)
            as_tflite.update(zip(names(paths), found))
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
    """Count the numbers that variables hold."""
    return sum(math.prod(variable.shape.as_list()) for variable in variables)


def names(paths: Sequence[Path]) -> list[str]:
    """Return the file names of paths."""
    return [path.name for path in paths]


def _own(outputs: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield the detections of the model's own post-processing, image by image."""
    arrays = (
        outputs[name].numpy()
        for name in ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
    )
    for count, boxes, scores, classes in zip(*arrays):
        found = [
            _detection(boxes[row], scores[row], round(float(classes[row])))
            for row in range(int(count))
        ]
        yield sorted(found, key=lambda item: -item["score"])


def _as_tflite(
    model: Any, predictions: Any, suppression: Mapping[str, Any], count: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the same predictions under the rule of TFLite's operator, image by image."""
    # The three lines of SSDMetaArch.postprocess before its own suppression.
    decoded = model._batch_decode(predictions["box_encodings"], predictions["anchors"])[0].numpy()
    scores = model._score_conversion_fn(predictions["class_predictions_with_background"]).numpy()
    first = 1 if model._add_background_class else 0
    for boxes, one in zip(decoded, scores[..., first:]):
        boxes = boxes.reshape(-1, 4)
        kept = fast_nms.keep(boxes, one, suppression, count)
        yield [_detection(boxes[row], one[row, label], label) for row, label in kept]


def _detection(box: Any, score: Any, label: int) -> dict[str, Any]:
    # The model counts classes from 0, label maps from 1.
    return {"box": [float(side) for side in box], "score": float(score), "class_id": label + 1}
