"""A stage of the tests: a SavedModel by Model Maker's own export, of a checkpoint's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.lite import efficientdet_lite, model_maker
from stages.odapi import restoration
from stages.protocol.request import REQUIRED
from stages.steps import make_hub_module, modelmaker_export

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,
    "image_size": None,
    "max_detections": None,
    "classes": REQUIRED,  # of the label map that Model Maker is told
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/saved_model`` with ``ObjectDetector.export``.

    What is exported is what Model Maker trains: layers of a hub module and two heads, all with
    the weights of the folder ``inputs["checkpoint"]``.
    """
    mm = model_maker.load()
    net, spec, _, _ = modelmaker_export.restored(params, inputs["checkpoint"])
    weights = {path: item.numpy() for path, item in restoration.object_paths(net).items()}
    heads = [head.get_weights() for head in (net.class_net.classes, net.box_net.boxes)]
    features = efficientdet_lite.net(spec, feature_only=True)
    for path, variable in restoration.object_paths(features).items():
        variable.assign(weights[path])
    make_hub_module.save(mm.tf, features, spec, out / "module", "features", trainable=True)
    spec.uri, spec.config.model_dir = str(out / "module"), str(out / "logs")
    trained = spec.create_model()
    trained(mm.tf.zeros([1, *spec.config.image_size, 3]), training=False)
    trained.classes.set_weights(heads[0])
    trained.boxes.set_weights(heads[1])
    labels = {number: f"thing {number}" for number in range(1, params["classes"] + 1)}
    detector = mm.object_detector.ObjectDetector(spec, labels, None)
    detector.model = trained
    detector.export(str(out), export_format=[mm.export_format.ExportFormat.SAVED_MODEL])
    return {"variables": len(trained.variables)}
