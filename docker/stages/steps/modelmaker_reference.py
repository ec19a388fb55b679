"""Stage: run an EfficientDet-Lite checkpoint itself, before any export or conversion.

The checkpoint is restored into Model Maker's net; its own preprocessing and post-processing run
eagerly. It corresponds to :mod:`stages.steps.reference` for the other framework.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.detect import fast_nms
from stages.files import pixels
from stages.lite import efficientdet_lite, model_maker
from stages.protocol.request import REQUIRED
from stages.steps import modelmaker_export, reference

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,  # "efficientdet_lite0" to "efficientdet_lite4"
    "max_detections": None,  # int; None: Model Maker's own (25); of ``as_tflite``
    "image_size": None,  # [height, width] in pixels; None: the spec's own (as in export)
    # As in export; of ``as_tflite`` alone.
    "regular_nms": False,
    "nms_score_threshold": None,
    "nms_iou_threshold": None,
    "max_detections_per_class": None,
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the checkpoint in ``inputs["checkpoint"]`` on ``inputs["images"]``.

    Writes ``out/detections.json`` as :func:`stages.steps.reference.run` does, and takes images as
    it does. ``images`` is what the net's own post-processing says (automl's ``postprocess_global``:
    boxes clipped to the image, overlapping ones with lowered scores instead of left out).
    ``as_tflite`` puts the same predictions through the rule of TFLite's detection operator
    (:mod:`stages.detect.fast_nms`; boxes not clipped), with what the export tells it.

    Returns:
        Facts: ``checkpoint``, ``input`` (height and width in pixels), ``max_detections``,
        ``images`` (how many), ``variables`` (restored and compared), ``weights`` (numbers in
        them). Whether it was trained, the export says: that takes four more runs of the net.

    Raises:
        StageError: see :mod:`stages.steps.modelmaker_export`; or an image cannot be read.
    """
    import numpy as np

    files = pixels.list_images(inputs["images"])
    mm = model_maker.load()
    net, spec, checkpoint, variables = modelmaker_export.restored(params, inputs["checkpoint"])
    config = spec.config
    height, width = config.image_size
    preprocess = efficientdet_lite.preprocessing(spec)
    suppression = efficientdet_lite.suppression(config, params)
    own: dict[str, Any] = {}
    as_tflite: dict[str, Any] = {}
    for start in range(0, len(files), reference.BATCH):
        paths = files[start : start + reference.BATCH]
        emit.progress(start, len(files), paths[0].name)
        images = np.stack(
            [pixels.resize_bilinear(pixels.load_rgb(path), height, width) for path in paths]
        )
        tensor, scales = preprocess(mm.tf.constant(images))
        classes, boxes = net(tensor, training=False)
        names = reference.names(paths)
        own.update(zip(names, _own(mm, config, classes, boxes, scales)))
        as_tflite.update(zip(names, _as_tflite(mm, config, classes, boxes, suppression)))
    text = json.dumps(
        {"images": own, "as_tflite": as_tflite}, indent=1, sort_keys=True, allow_nan=False
    )
    (out / "detections.json").write_text(text + "\n", encoding="utf-8")
    emit.progress(len(files), len(files), "done")
    return {
        "checkpoint": checkpoint.prefix.name,
        "input": {"height": height, "width": width},
        "max_detections": config.tflite_max_detections,
        "images": len(files),
        "variables": variables,
        "weights": reference.weights(net.weights),
    }


def _own(
    mm: Any, config: Any, classes: Any, boxes: Any, scales: Any
) -> Iterator[list[dict[str, Any]]]:
    """Yield the detections of the net's own post-processing, image by image."""
    found = mm.postprocess.postprocess_global(config.as_dict(), classes, boxes, scales)
    size = _size(config)
    for corners, scores, labels, count in zip(*(tensor.numpy() for tensor in found)):
        detections = [
            _detection(corners[row] / size, scores[row], round(float(labels[row])))
            for row in range(int(count))
        ]
        yield sorted(detections, key=lambda item: -item["score"])


def _as_tflite(
    mm: Any, config: Any, classes: Any, boxes: Any, suppression: Mapping[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the same predictions under the rule of TFLite's operator, image by image."""
    found = mm.postprocess.pre_nms(config.as_dict(), classes, boxes, topk=False)
    for corners, scores in zip(found[0].numpy() / _size(config), found[1].numpy()):
        kept = fast_nms.keep(corners, scores, suppression, config.tflite_max_detections)
        # The net counts classes from 0, label maps from 1.
        yield [_detection(corners[row], scores[row, label], label + 1) for row, label in kept]


def _size(config: Any) -> Any:
    """Return the divisor that turns pixels of a box into fractions of the image."""
    import numpy as np

    height, width = config.image_size
    return np.array([height, width, height, width], np.float32)


def _detection(box: Any, score: Any, class_id: int) -> dict[str, Any]:
    return {"box": [float(side) for side in box], "score": float(score), "class_id": class_id}
