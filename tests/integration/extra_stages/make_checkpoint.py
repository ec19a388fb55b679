"""A stage of the tests: a checkpoint with seeded random weights, in the zoo's layout."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from stages.files import pixels
from stages.odapi import detection_model, pipeline
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "seed": REQUIRED,  # int
    "only": None,  # name of the one child of the model that is saved; None: the whole model
    "number": 0,  # of the checkpoint
    "fresh": False,  # whether every variable keeps its initial value, as before any training
    "optimizer": False,  # whether Adam's state is saved beside the model, as training does
    "stand_out": None,  # how many class scores are 0.3 or more on all `images` together
}

_SOFTER = {  # kernels of heads that speak up less: scores then spread instead of all being 1
    "model/_box_predictor/": 0.15,
    "/0/layer_with_weights-0/depthwise_kernel": 0.3,  # CenterNet's
    "/0/layer_with_weights-1/kernel": 0.3,
}

_NEARLY_LINEAR = (0.3, 0.6)  # shifts behind batch norms, about one deviation
_KINDS = 8  # how many kinds of channels there are; the zoo's counts of channels are multiples

_CENTERNET_BIASES = {  # by head: range of the biases of its last layer
    "object_center": (-5.0, -2.0),  # few peaks stand out
    "box/scale": (8.0, 32.0),  # heights and widths in cells of 4 pixels: boxes that have an area
    "box/offset": (0.0, 1.0),  # of a cell
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model`` for the ``pipeline_config`` given.

    Batch norms get statistics far from the defaults (which would hide a failed restore), and
    kernels are scaled so that values neither vanish nor all saturate on their way through. In
    a deep network of other activations they would all the same: with ``images`` (a folder)
    every batch norm gets the statistics of what reaches it there, as from a training.
    """
    import numpy as np

    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    folder = out / "model"
    folder.mkdir()
    shutil.copyfile(inputs["pipeline_config"], folder / "pipeline.config")
    config = pipeline.read_pipeline(folder)
    model = detection_model.build(config)
    own = type(config.model)()
    own.CopyFrom(config.model)
    size = pipeline.fix_image_size(config, None)
    detection_model.create_variables(model, size)
    detection_model.keep(own, size, model)  # a reference behind it need not build it again
    random = np.random.Generator(np.random.PCG64(params["seed"]))
    root = tf.train.Checkpoint(model=model)
    from tensorflow.python.checkpoint.graph_view import ObjectGraphView

    trackables, paths = ObjectGraphView(root).breadth_first_traversal()
    names = {
        "/".join(reference.name for reference in paths[item]): item
        for item in trackables
        if isinstance(item, tf.Variable)
    }
    names.pop("save_counter", None)
    for name in [] if params["fresh"] else sorted(names):
        variable = names[name]
        values = _values(random, name.rpartition("/")[2], variable.shape.as_list())
        values = _in_head(random, name, values, measured="images" in inputs)
        if params["stand_out"]:
            values = _steady(random, name, values)
        variable.assign(values)
    if "images" in inputs:
        batch = _batch(tf, model, inputs["images"])
        _measure(tf, model, batch)
        if params["stand_out"]:
            _stand_out(tf, model, batch, params["stand_out"])
    parts = {"model": model}
    if params["only"]:
        parts["model"] = tf.Module()
        setattr(parts["model"], params["only"], getattr(model, params["only"]))
    if params["optimizer"]:
        parts["optimizer"] = _used_adam(tf, random, [names[name] for name in sorted(names)])
    root = tf.train.Checkpoint(**parts)
    manager = tf.train.CheckpointManager(root, str(folder / "checkpoint"), 1)
    manager.save(checkpoint_number=params["number"])
    return {"variables": len(names)}


def _in_head(random: Any, name: str, values: Any, *, measured: bool) -> Any:
    center_net = name.startswith("model/_prediction_head_dict/")
    if measured and not center_net:
        return _tame(random, name, values)
    if center_net:
        for head, limits in _CENTERNET_BIASES.items():
            if name.endswith(f"/{head}/0/layer_with_weights-1/bias"):
                return random.uniform(*limits, values.shape)
    elif not name.startswith("model/_box_predictor/"):
        return values
    return values * next((by for part, by in _SOFTER.items() if part in name), 1.0)


def _steady(random: Any, name: str, values: Any) -> Any:
    """For a network whose detections survive rounded weights, as those of a trained one do.

    Random weights make every layer's rounding larger in the next one. Two things prevent that:
    shifts behind batch norms that keep most values off the bend of their ReLU, and kernels that
    tell only a few kinds of channels apart, so that the errors of many average out.
    """
    import numpy as np

    kind = name.rpartition("/")[2]
    if kind == "beta":
        return random.uniform(*_NEARLY_LINEAR, values.shape)
    if "kernel" not in kind or values.ndim != 4:
        return values
    channels = (2,) if "depthwise" in kind else (2, 3)
    alike = [axis for axis in channels if values.shape[axis] % _KINDS == 0]
    block = values[tuple(slice(_KINDS if axis in alike else None) for axis in range(4))]
    times = [values.shape[axis] // block.shape[axis] for axis in range(4)]
    common = np.tile(block, times) + 0.3 * values
    # What adds up instead of averaging out is as many times larger.
    return common / (1.0 if "depthwise" in kind else times[2] ** 0.5)


def _tame(random: Any, name: str, values: Any) -> Any:
    """For a deep network behind batch norms: small signals, which nothing amplifies to chaos."""
    kind = name.rpartition("/")[2]
    if kind in ("gamma", "beta"):
        return values * 0.3
    if "/_prediction_heads/class_predictions_with_background/" in name and kind == "bias":
        return random.uniform(-5.0, -2.0, values.shape)
    return values * (0.1 if "/_prediction_heads/box_encodings/" in name else 1.0)


def _batch(tf: Any, model: Any, images: Path) -> tuple[Any, Any]:
    """The images as ``predict`` takes them, by the model's own preprocessing."""
    made = [
        model.preprocess(tf.constant(image[None], tf.float32))
        for _, image in pixels.pictures(images)
    ]
    return tuple(tf.concat([each[part] for each in made], 0) for part in (0, 1))


def _measure(tf: Any, model: Any, batch: Any) -> None:
    """Give every batch norm the mean and variance of its inputs, from the first one on."""
    from keras.src.layers.normalization import batch_normalization

    base = batch_normalization.BatchNormalizationBase
    original = base.call

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        mean, variance = tf.nn.moments(inputs, list(range(inputs.shape.rank - 1)))
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return original(self, inputs, training=False)

    base.call = tf.autograph.experimental.do_not_convert(call)
    try:
        model.predict(*batch)
    finally:
        base.call = original


def _stand_out(tf: Any, model: Any, batch: Any, count: int) -> None:
    """Scale and shift the last layers of the class heads: ``count`` scores from 0.3 to about 0.9.

    Random weights score everything alike, or a few hundred places 1.0. A detector that was
    trained has few detections, each with a score of its own, and so this one.
    """
    import numpy as np

    def logits() -> Any:
        found = model.predict(*batch)
        if "object_center" in found:
            return found["object_center"][-1].numpy()
        scores = found["class_predictions_with_background"].numpy()
        return scores[..., 1:] if model._add_background_class else scores

    layers = detection_model._class_heads(model)
    for number, layer in enumerate(layers):
        # Not one value for all: that is what heads have before any training.
        ripple = np.cos(np.arange(layer.bias.shape[0]) + number) / 8
        layer.bias.assign(ripple.astype(np.float32))
    best = np.sort(logits().ravel())[::-1]
    high, low = 2.0, -0.85  # logits of 0.88, of the third best score, and of 0.3
    factor = (high - low) / float(best[2] - best[count - 1])
    for layer in layers:
        kernel = layer.pointwise_kernel if hasattr(layer, "pointwise_kernel") else layer.kernel
        kernel.assign(kernel * factor)
        layer.bias.assign(layer.bias * factor + (low - factor * float(best[count - 1])))


def _used_adam(tf: Any, random: Any, variables: list[Any]) -> Any:
    """The optimizer of a training that got somewhere: no slot has its initial value."""
    optimizer = tf.keras.optimizers.legacy.Adam()
    with tf.name_scope("training"):
        optimizer._create_all_weights([item for item in variables if item.trainable])
    for item in optimizer.weights[1:]:  # the first is the count of steps
        item.assign(random.normal(0.0, 1.0, item.shape.as_list()))
    return optimizer


def _values(random: Any, kind: str, shape: list[int]) -> Any:
    if kind == "gamma":
        return random.uniform(0.5, 1.5, shape)
    if kind == "moving_variance":
        return random.uniform(0.25, 4.0, shape)
    if kind == "moving_mean":
        return random.uniform(-0.5, 0.5, shape)
    if kind in ("beta", "bias"):
        return random.uniform(-0.5, 0.5, shape)
    if "kernel" not in kind:  # how much each input of a BiFPN node counts
        return random.uniform(0.5, 1.5, shape)
    inputs = math.prod(shape[:2] if "depthwise" in kind else shape[:-1])
    return random.normal(0.0, (2.0 / inputs) ** 0.5, shape)
