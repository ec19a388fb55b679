"""Stage: convert a SavedModel of TFLite Model Maker to a checkpoint of its EfficientDet.

``ObjectDetector.export`` with ``ExportFormat.SAVED_MODEL`` writes a graph that takes bytes of any
size and uses a suppression that TFLite does not support, so it cannot become a TFLite detector. But
its variables are the trained net's. They are put into Model Maker's net, all of them or none, and
saved as a checkpoint, which is then processed like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.lite import automl_checkpoint, efficientdet_lite
from stages.odapi import restoration
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,  # "efficientdet_lite0" to "efficientdet_lite4"
    "image_size": None,  # [height, width] in pixels; None: the spec's own
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model/checkpoint/ckpt-0.*`` of the folder ``inputs["saved_model"]``.

    Returns:
        Facts: ``variables`` (of the net, each compared with the SavedModel's), ``saved_kind``
        (``training`` or ``tf2``, see :mod:`stages.lite.automl_checkpoint`).

    Raises:
        StageError: the SavedModel is damaged, is not an EfficientDet-Lite, or does not fit
            the spec.
    """
    emit.progress(0, 2, "importing Model Maker")
    spec = efficientdet_lite.model_spec(params["spec"], 1, params["image_size"])
    saved = automl_checkpoint.of_saved_model(inputs["saved_model"])
    spec.config.num_classes = automl_checkpoint.num_classes(saved, spec.config)
    net = efficientdet_lite.net(spec)
    emit.progress(1, 2, "copying its variables")
    variables = automl_checkpoint.take(saved, net)
    prefix = out / "model" / "checkpoint" / "ckpt-0"
    prefix.parent.mkdir(parents=True)
    net.save_weights(str(prefix), save_format="tf")
    reader = restoration.open_checkpoint(prefix)
    restoration.check_values(restoration.object_keys(restoration.object_paths(net), reader), reader)
    emit.progress(2, 2, "saved")
    return {"variables": variables, "saved_kind": saved.kind}
