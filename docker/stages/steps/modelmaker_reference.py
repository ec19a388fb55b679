"""Stage: run an EfficientDet-Lite checkpoint itself, before any export or conversion.

The checkpoint is restored into Model Maker's net; the preprocessing of its own data loader (the
letterbox included) and its own post-processing run on whole photographs. It corresponds to
:mod:`stages.steps.reference` for the other framework.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.detect import fast_nms
from stages.detect.enough import Enough
from stages.files import pixels
from stages.lite import efficientdet_lite, model_maker
from stages.protocol.request import REQUIRED
from stages.steps import modelmaker_export, reference

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,  # "efficientdet_lite0" to "efficientdet_lite4"
    "max_detections": None,  # int; None: Model Maker's own (25); of ``as_tflite``
    "image_size": None,  # [height, width] in pixels; None: the spec's own (as in export)
    "crops": False,  # add images that are not square (stages.files.pixels.pictures)
    "enough": None,  # for a large input, leave images out: see stages.detect.enough.PARAM
    "as_tflite": True,  # False: only the list ``images`` (stages.steps.reference.write)
    # As in export: what is built, not what the net was configured with.
    "regular_nms": False,
    "nms_score_threshold": None,
    "nms_iou_threshold": None,
    "max_detections_per_class": None,
}

_SOFT = "gaussian"  # automl's name of the suppression that lowers scores
_OVERLAP = 0.5  # automl's default: the largest overlap that its plain suppression keeps
_SIGMA = 0.5  # automl's default, as the paper defines it: twice TensorFlow's


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run the checkpoint in ``inputs["checkpoint"]`` on ``inputs["images"]``.

    Writes ``out/detections.json`` (:func:`stages.steps.reference.write`), and takes images as
    :func:`stages.steps.reference.run` does. ``images`` is what the net's own post-processing says
    (automl's ``postprocess_global``: overlapping boxes get lower scores instead of being left out).
    ``as_tflite`` puts the same predictions through the rule of TFLite's detection operator
    (:mod:`stages.detect.fast_nms`), with what the export tells it. A net for another input size has
    its loader scale images to that: ``as_built`` only differs by a limit on detections of a class.

    Returns:
        Facts: ``checkpoint``, ``input`` (height and width in pixels), ``max_detections``,
        ``images`` (how many), ``variables`` (restored and compared), ``weights`` (numbers in
        them). Whether it was trained, the export says: that takes four more runs of the net.

    Raises:
        StageError: see :mod:`stages.steps.modelmaker_export`; or an image cannot be read.
    """
    total = len(pixels.list_images(inputs["images"]))
    mm = model_maker.load()
    net, spec, checkpoint, variables = modelmaker_export.restored(params, inputs["checkpoint"])
    height, width = spec.config.image_size
    preprocess = efficientdet_lite.preprocessing(spec)
    chosen = efficientdet_lite.suppression(spec.config, params)
    answer = _traced(mm, net, spec.config, params["as_tflite"])
    own, as_tflite = reference.Found(), reference.Found()
    enough = Enough(params["enough"], height, width)
    for number, (name, image) in enumerate(enough.pictures(inputs["images"], params["crops"])):
        emit.progress(min(number, total), total, name)
        tensor, scales = preprocess(mm.tf.constant(image[None], mm.tf.float32))
        found, predictions = answer(tensor, scales)
        own.lists[name] = _own(found, image.shape)
        own.note_end(name, own.lists[name], spec.config.nms_configs.max_output_size)
        enough.note(own.lists[name])
        if params["as_tflite"]:
            kept, outside = _as_tflite(
                spec.config, predictions, float(scales[0]), image.shape, chosen
            )
            as_tflite.note_end(name, kept, spec.config.tflite_max_detections)
            as_tflite.lists[name] = reference.inside(kept) if outside else kept
    limit = params["max_detections_per_class"]
    nms = spec.config.nms_configs
    reference.write(
        out,
        images=own,
        as_built=None
        if limit is None or (not params["as_tflite"])
        else reference.Found(_first_of_classes(own.lists, limit), own.ends),
        as_tflite=as_tflite if as_tflite.lists else None,
        suppression=reference.compared(
            {
                "iou": nms.iou_thresh or _OVERLAP,
                "sigma": (nms.sigma or _SIGMA) / 2 if nms.method == _SOFT else 0.0,
                "across_classes": True,
                "score": nms.score_thresh or 0.0,
            },
            chosen,
        ),
    )
    emit.progress(total, total, "done")
    return {
        "checkpoint": checkpoint.prefix.name,
        "input": {"height": height, "width": width},
        "max_detections": spec.config.tflite_max_detections,
        "images": len(own.lists),
        "variables": variables,
        "weights": reference.weights(net.weights),
    }


def _traced(mm: Any, net: Any, config: Any, with_predictions: bool) -> Any:
    """Return a function from input tensor and scales to what is found, and the predictions.

    What is found: boxes (in pixels of the photograph), scores, classes and how many there are.
    Predictions, if wanted: boxes (in pixels of the input) and scores of every anchor.
    """
    settings = config.as_dict()

    def predict(tensor: Any, scales: Any) -> Any:
        classes, boxes = net(tensor, training=False)
        # Both change their lists of levels.
        found = mm.postprocess.postprocess_global(settings, [*classes], [*boxes], scales)
        if not with_predictions:
            return found, ()
        every = mm.postprocess.pre_nms(settings, [*classes], [*boxes], topk=False)
        return found, every[:2]

    signature = [
        mm.tf.TensorSpec([1, *config.image_size, 3], mm.tf.float32),
        mm.tf.TensorSpec([1], mm.tf.float32),
    ]
    # Its code builds graphs itself, and needs no conversion.
    return mm.tf.function(predict, input_signature=signature, autograph=False)


def _first_of_classes(found: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """Leave out detections of a class behind its first ``limit`` ones in an image."""
    kept: dict[str, Any] = {}
    for name, items in found.items():
        seen: Counter[int] = Counter()
        kept[name] = []
        for item in items:
            seen[item["class_id"]] += 1
            if seen[item["class_id"]] <= limit:
                kept[name].append(item)
    return kept


def _own(found: Any, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Convert the detections of the net's own post-processing."""
    boxes, scores, labels, count = (tensor.numpy()[0] for tensor in found)
    fractions = boxes / _size(*shape[:2])
    detections = [
        _detection(fractions[row], scores[row], round(float(labels[row])))
        for row in range(int(count))
    ]
    return sorted(detections, key=lambda item: -item["score"])


def _as_tflite(
    config: Any,
    predictions: Any,
    scale: float,
    shape: tuple[int, ...],
    suppression: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], bool]:
    """Put the same predictions through the rule of TFLite's operator.

    Returns:
        The detections, and whether some may lie in the filling beside the photograph.
    """
    boxes, scores = (tensor.numpy()[0] for tensor in predictions)
    # The operator compares boxes as fractions of the input.
    corners = boxes / _size(*config.image_size)
    kept = fast_nms.keep(corners, scores, suppression, config.tflite_max_detections)
    fractions = boxes * scale / _size(*shape[:2])
    # The net counts classes from 0, label maps from 1.
    found = [_detection(fractions[row], scores[row, label], label + 1) for row, label in kept]
    fills = all(round(scale * side) == own for side, own in zip(config.image_size, shape))
    return found, not fills


def _size(height: int, width: int) -> Any:
    """Return the divisor that turns pixels of a box into fractions."""
    import numpy as np

    return np.array([height, width, height, width], np.float32)


def _detection(box: Any, score: Any, class_id: int) -> dict[str, Any]:
    return {"box": [float(side) for side in box], "score": float(score), "class_id": class_id}
