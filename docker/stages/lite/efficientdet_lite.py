"""Build Model Maker's EfficientDet-Lite nets, and derive their facts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, Optional

from stages.lite import model_maker
from stages.odapi import detection_model
from stages.protocol.failures import StageError
from stages.tflite import postprocess_options

SPECS = tuple(f"efficientdet_lite{number}" for number in range(5))


def model_spec(
    spec: str,
    num_classes: int,
    image_size: Optional[list[int]] = None,
    max_detections: Optional[int] = None,
) -> Any:
    """Make Model Maker's own specification of an architecture.

    Args:
        spec: one of :data:`SPECS`.
        num_classes: from 1.
        image_size: [height, width] in pixels; None: the architecture's own.
        max_detections: how many boxes a TFLite file outputs; None: Model Maker's own (25).

    Raises:
        StageError: a value is invalid.
    """
    if spec not in SPECS:
        raise StageError(
            "stage-failed", f"There is no spec {spec!r}.", f"Specs: {', '.join(SPECS)}."
        )
    counts = {"num_classes": num_classes, "max_detections": max_detections}
    for number, side in enumerate(image_size or []):
        counts[f"image_size[{number}]"] = side
    for name, value in counts.items():
        if value is not None and (type(value) is not int or value < 1):
            raise StageError("stage-failed", f"{name} is {value!r}; expected a number from 1.")
    if image_size is not None and len(image_size) != 2:
        raise StageError("stage-failed", f"{image_size!r} is not [height, width].")
    mm = model_maker.load()
    # By default it makes a new folder for training files, which are not needed here.
    made = mm.model_spec.get(spec, model_dir=tempfile.gettempdir())
    made.config.num_classes = num_classes
    if image_size is not None:
        made.config.image_size = tuple(image_size)
    if max_detections is not None:
        made.config.tflite_max_detections = max_detections
    return made


def build(spec: str, num_classes: int, image_size: Optional[list[int]] = None) -> Any:
    """:func:`net` of :func:`model_spec`."""
    return net(model_spec(spec, num_classes, image_size))


def net(made_spec: Any, feature_only: bool = False) -> Any:
    """Build the ``EfficientDetNet`` of a :func:`model_spec`, with variables.

    Args:
        made_spec: the specification.
        feature_only: whether to leave out the two prediction layers, as hub modules do.

    Returns:
        A Keras model: float32 [1, height, width, 3], normalised, to a tuple of two lists with a
        tensor for each level: class logits [1, h, w, classes * anchors], boxes
        [1, h, w, 4 * anchors].
    """
    mm = model_maker.load()
    detection_model.fresh_names()
    made = mm.efficientdet_keras.EfficientDetNet(config=made_spec.config, feature_only=feature_only)
    # One eager call gives the variables the names of automl's checkpoints, and fixes shapes.
    made(mm.tf.zeros([1, *made_spec.config.image_size, 3]), training=False)
    return made


def anchors_per_place(config: Any) -> int:
    """Return how many anchors share a position of a feature map."""
    return len(config.aspect_ratios) * int(config.num_scales)


def width(spec: str) -> int:
    """Return the number of channels of an architecture's feature maps, as the heads read them."""
    config = model_maker.load().hparams_config.get_efficientdet_config(spec.replace("_", "-"))
    return int(config.fpn_num_filters)


def preprocessing(made_spec: Any) -> Any:
    """Return Model Maker's own preprocessing as a function.

    It takes a float32 tensor [images, height, width, 3] of pixels (0 to 255) in the net's size,
    and returns the net's input tensor, and a factor for each image (1: not resized).
    """
    config = made_spec.config
    # Any net works: the preprocessing depends on the configuration alone.
    exported = model_maker.load().object_detector_spec.ExportModel(None, config)

    def preprocess(images: Any) -> Any:
        return exported._preprocessing(
            images, config.image_size, config.mean_rgb, config.stddev_rgb, "infer"
        )

    return preprocess


def normalization(made_spec: Any) -> dict[str, list[float]]:
    """Measure the net's normalisation with :func:`stages.odapi.detection_model.preprocessing`.

    The TFLite export starts after Model Maker's preprocessing.

    Returns:
        ``{"mean": [r, g, b], "std": [r, g, b]}`` in pixel values (0 to 255).
    """
    asked = SimpleNamespace(preprocess=preprocessing(made_spec))
    return detection_model.preprocessing(asked, tuple(made_spec.config.image_size))


def suppression(config: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of TFLite's detection operator for a net.

    Args:
        config: the net's; it is not changed.
        wanted: as in :func:`stages.odapi.pipeline.built_suppression`.

    Returns:
        As that function. Defaults are those of automl's ``tflite_nms_implements_signature``.
    """
    own = config.nms_configs
    least, most = wanted["nms_score_threshold"], wanted["nms_iou_threshold"]
    limit = wanted["max_detections_per_class"]
    return {
        "regular": bool(wanted["regular_nms"]),
        # None is minus infinity there, and so is 0.
        "score_threshold": (own.score_thresh if least is None else least) or None,
        "iou_threshold": (own.iou_thresh if most is None else most) or 0.5,
        "detections_per_class": postprocess_options.DETECTIONS_PER_CLASS
        if limit is None
        else limit,
    }


@contextlib.contextmanager
def suppressing(config: Any, chosen: Mapping[str, Any]) -> Iterator[None]:
    """While active, Model Maker exports the operator with these options.

    Args:
        config: the configuration that is exported.
        chosen: from :func:`suppression`.
    """
    postprocess, own = model_maker.load().postprocess, config.nms_configs
    regular, least, most = postprocess.TFLITE_USE_REGULAR_NMS, own.score_thresh, own.iou_thresh
    # A constant of the module, not an option of the configuration.
    postprocess.TFLITE_USE_REGULAR_NMS = chosen["regular"]
    own.score_thresh, own.iou_thresh = chosen["score_threshold"], chosen["iou_threshold"]
    try:
        yield
    finally:
        postprocess.TFLITE_USE_REGULAR_NMS = regular
        own.score_thresh, own.iou_thresh = least, most


# --- was it ever trained? ----------------------------------------------------------------------

_FLAT = 1e-3
"""Scores of a detector with constant output differ by less."""

_PROBES = 4


def untrained(class_head: Any, box_head: Any, scores: Any) -> list[str]:
    """Return reasons to think that prediction heads were never trained, as texts.

    Training moves every bias away from its initial value. If all of a head's biases still have
    exactly that value, the head is untrained, whatever the layers before it have learnt; then its
    kernels and scores are reported, too. (Alone, they are weak evidence: a kernel after a short
    training still looks like a random one.)

    Args:
        class_head: the Keras layer that scores classes.
        box_head: the Keras layer that finds boxes.
        scores: float array, any shape: scores of the model on :func:`probes`.

    Returns:
        Empty where there is no reason.
    """
    reasons = []
    for what, head in (("class", class_head), ("box", box_head)):
        bias = head.bias.numpy()
        initial = head.bias_initializer(head.bias.shape, head.bias.dtype).numpy()
        if not (bias == initial).all():
            continue
        reason = (
            f"all {bias.size} biases of the {what} head still have their initial value,"
            f" {float(initial[0]):.6g}"
        )
        if all(looks_random(kernel) for kernel in _kernels(head)):
            reason += ", and its kernels look as their random initialiser makes them"
        reasons.append(reason)
    lowest, highest = float(scores.min()), float(scores.max())
    if highest - lowest < _FLAT:
        reasons.append(
            f"scores are the same whatever is in the image: from {lowest:.6g} to {highest:.6g}"
        )
    elif reasons:
        reasons.append(f"scores on test patterns are from {lowest:.4g} to {highest:.4g}")
    return reasons


def looks_random(kernel: Any) -> bool:
    """Whether numbers look like drawn from the heads' initialiser.

    That is ``VarianceScaling()``: a normal distribution cut off at two deviations, of mean 0 and
    variance 1 / (height * width * inputs); the deviation before the cut is larger by 1 /
    0.8796…, which is also TensorFlow's constant.

    Args:
        kernel: float array [height, width, inputs, outputs].

    Returns:
        Whether no number is beyond the cut, and mean and deviation are within six standard
        errors of those.
    """
    import numpy as np

    values = np.asarray(kernel, np.float64)
    fan_in = values.shape[0] * values.shape[1] * values.shape[2]
    # TensorFlow counts the inputs of a depthwise kernel [h, w, channels, 1] the same way.
    deviation = fan_in**-0.5
    cut = 2 * deviation / 0.87962566103423978
    error = deviation / values.size**0.5
    return bool(
        np.abs(values).max() <= cut * (1 + 1e-6)
        and abs(values.mean()) <= 6 * error
        and abs(values.std() - deviation) <= 6 * error
    )


def probes(made_spec: Any) -> Any:
    """Make test patterns in the net's input form: black, white, a slope, noise.

    Returns:
        float32 array [4, height, width, 3], normalised.
    """
    import numpy as np

    config = made_spec.config
    height, width = config.image_size
    images = np.zeros([_PROBES, height, width, 3], np.float32)
    images[1] = 255
    images[2] = np.linspace(0, 255, width, dtype=np.float32)[:, None]
    images[3] = np.random.Generator(np.random.PCG64(0)).uniform(0, 255, images[3].shape)
    return (images - np.float32(config.mean_rgb)) / np.float32(config.stddev_rgb)


def probe_scores(made: Any, made_spec: Any) -> Any:
    """Return all class scores of a net on the :func:`probes`: float array of one dimension."""
    import numpy as np
    import tensorflow as tf

    found = []
    for image in probes(made_spec):
        classes, _ = made(tf.constant(image[None]), training=False)
        found += [tf.sigmoid(level).numpy().reshape(-1) for level in classes]
    return np.concatenate(found)


def _kernels(head: Any) -> list[Any]:
    return [variable.numpy() for variable in head.weights if variable.shape.rank == 4]
