"""A stage of the tests: a hub module of the kind that Model Maker trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.lite import efficientdet_lite, model_maker
from stages.protocol.request import REQUIRED
from stages.steps import make_lite_checkpoint

ENVIRONMENT = "main"

PARAMS = {
    "seed": REQUIRED,  # int
    "spec": "efficientdet_lite0",
    "image_size": None,
    "kind": "features",  # or "heads": a whole net; "backbone": one feature map
    "trainable": False,  # whether it can be called for training, too, which takes longer to make
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/module/saved_model.pb`` and its variables.

    Weights are those of the stage ``make_lite_checkpoint`` with the same seed and ``images``.
    """
    tf = model_maker.load().tf
    spec = efficientdet_lite.model_spec(params["spec"], 90, params["image_size"])
    net = efficientdet_lite.net(spec, feature_only=params["kind"] != "heads")
    make_lite_checkpoint.fill(net, params["seed"])
    make_lite_checkpoint.measure(net, spec, inputs["images"])
    save(tf, net, spec, out / "module", params["kind"], params["trainable"])
    return {"variables": len(net.variables)}


def save(tf: Any, net: Any, spec: Any, folder: Path, kind: str, trainable: bool) -> None:
    """Save a net as a hub module; see :data:`PARAMS`."""
    images = tf.TensorSpec([None, *spec.config.image_size, 3], tf.float32)

    class Module(tf.Module):
        @tf.function
        def __call__(self, inputs: Any, training: Any = False) -> Any:
            if kind == "backbone":
                return net.backbone(inputs, training=training, features_only=True)[-1]
            return net(inputs, training=training)

    module = Module()
    for training in (False, True) if trainable else (False,):
        module.__call__.get_concrete_function(images, training=training)
    # TF-Hub's "reusable SavedModel": what its KerasLayer looks for. (A tf.Module has properties
    # of these names.)
    held = tf.__internal__.tracking.AutoTrackable()
    held.__call__ = module.__call__
    held.variables = net.variables
    held.trainable_variables = net.trainable_variables
    held.regularization_losses = []
    tf.saved_model.save(held, str(folder))
