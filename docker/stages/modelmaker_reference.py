"""Stage: what an EfficientDet-Lite itself finds, before any export or conversion.

The checkpoint is restored into Model Maker's net; its own preprocessing and its own
post-processing are run eagerly. As :mod:`stages.reference`, for the other framework.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages import (
    efficientdet_lite,
    fast_nms,
    model_maker,
    modelmaker_export,
    pixels,
    reference,
)
from stages.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,  # "efficientdet_lite0" to "efficientdet_lite4"
    "max_detections": None,  # int; None: Model Maker's own (25); of ``as_tflite``
    "image_size": None,  # [height, width] in pixels; None: the spec's own (as in export)
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the checkpoint in ``inputs["checkpoint"]`` on ``inputs["images"]``.

    Writes ``out/detections.json`` as :func:`stages.reference.run` does, and takes images as it
    does. ``images`` is what the net's own post-processing says (automl's ``postprocess_global``:
    boxes clipped to the image, overlapping ones with lowered scores instead of left out).
    ``as_tflite`` puts the same predictions through the rule of TFLite's detection operator
    (:mod:`stages.fast_nms`; boxes not clipped), with what Model Maker's export tells it.

    Returns:
        Facts: ``checkpoint``, ``input`` (height and width in pixels), ``max_detections``,
        ``images`` (how many), ``variables`` (restored and compared), ``weights`` (numbers in
        them), ``untrained`` (reasons, in words, to think that it was never trained).

    Raises:
        StageError: see :mod:`stages.modelmaker_export`; or an image cannot be read.
    """
    files = pixels.list_images(inputs["images"])
    mm = model_maker.load()
    net, spec, checkpoint, variables = modelmaker_export.restored(params, inputs["checkpoint"])
    config = spec.config
    height, width = config.image_size
    preprocess = efficientdet_lite.preprocessing(spec)
    own: dict[str, Any] = {}
    as_tflite: dict[str, Any] = {}
    for number, path in enumerate(files):
        emit.progress(number, len(files), path.name)
        image = pixels.resize_bilinear(pixels.load_rgb(path), height, width)
        tensor, scales = preprocess(mm.tf.constant(image[None]))
        classes, boxes = net(tensor, training=False)
        own[path.name] = _own(mm, config, classes, boxes, scales)
        as_tflite[path.name] = _as_tflite(mm, config, classes, boxes)
    text = json.dumps(
        {"images": own, "as_tflite": as_tflite}, indent=1, sort_keys=True, allow_nan=False
    )
    (out / "detections.json").write_text(text + "\n", encoding="utf-8")
    emit.progress(len(files), len(files), "done")
    scores = efficientdet_lite.probe_scores(net, spec)
    return {
        "checkpoint": checkpoint.prefix.name,
        "input": {"height": height, "width": width},
        "max_detections": config.tflite_max_detections,
        "images": len(files),
        "variables": variables,
        "weights": reference.weights(net.weights),
        "untrained": efficientdet_lite.untrained(net.class_net.classes, net.box_net.boxes, scores),
    }


def _own(mm: Any, config: Any, classes: Any, boxes: Any, scales: Any) -> list[dict[str, Any]]:
    found = mm.postprocess.postprocess_global(config.as_dict(), classes, boxes, scales)
    corners, scores, labels, count = (tensor[0].numpy() for tensor in found)
    size = _size(config)
    detections = [
        _detection(corners[row] / size, scores[row], round(float(labels[row])))
        for row in range(int(count))
    ]
    return sorted(detections, key=lambda item: -item["score"])


def _as_tflite(mm: Any, config: Any, classes: Any, boxes: Any) -> list[dict[str, Any]]:
    found = mm.postprocess.pre_nms(config.as_dict(), classes, boxes, topk=False)
    corners, scores = found[0][0].numpy() / _size(config), found[1][0].numpy()
    # As automl's tflite_nms_implements_signature fills in what the configuration leaves out.
    nms = config.nms_configs
    kept = fast_nms.select(
        corners,
        scores,
        nms.score_thresh or float("-inf"),
        nms.iou_thresh or 0.5,
        config.tflite_max_detections,
    )
    # The net counts classes from 0, label maps from 1.
    return [_detection(corners[row], scores[row, label], label + 1) for row, label in kept]


def _size(config: Any) -> Any:
    """What divides pixels of a box into fractions of the image."""
    import numpy as np

    height, width = config.image_size
    return np.array([height, width, height, width], np.float32)


def _detection(box: Any, score: Any, class_id: int) -> dict[str, Any]:
    return {"box": [float(side) for side in box], "score": float(score), "class_id": class_id}
