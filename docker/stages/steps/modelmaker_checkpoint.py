"""Stage: convert an embedded sample's packed weights to a checkpoint of Model Maker's EfficientDet.

The checkpoint is object-based, with the net itself as its root: what Keras' ``save_weights`` of
Model Maker's ``EfficientDetNet`` leaves, and what its own ``restore_ckpt`` reads.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stages.odapi import packed_weights
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "spec": REQUIRED,  # "efficientdet_lite0" to "efficientdet_lite4"
    "image_size": None,  # [height, width] in pixels; None: the spec's own
}

CLASS_BIAS = "class_net/classes/bias"
"""The variable whose size gives the number of classes: one bias a class and anchor."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model``: ``checkpoint/ckpt-0.*`` and ``label_map.pbtxt``.

    Inputs: ``weights`` (see :mod:`stages.odapi.packed_weights`), ``label_map``.

    Returns:
        Facts: ``variables``, ``parameters`` (how many numbers they hold).

    Raises:
        StageError: the weights cannot be read or are not exactly those of the spec's net.
    """
    values = packed_weights.read(inputs["weights"])
    from stages.lite import efficientdet_lite
    from stages.odapi import restoration

    spec, size = params["spec"], params["image_size"]
    config = efficientdet_lite.model_spec(spec, 1, size).config
    classes = num_classes(values, efficientdet_lite.anchors_per_place(config))
    net = efficientdet_lite.build(spec, classes, size)
    variables = restoration.object_paths(net)
    parameters = packed_weights.assign(variables, values)

    folder = out / "model"
    (folder / "checkpoint").mkdir(parents=True)
    shutil.copyfile(inputs["label_map"], folder / "label_map.pbtxt")
    prefix = folder / "checkpoint" / "ckpt-0"
    net.save_weights(str(prefix), save_format="tf")
    reader = restoration.open_checkpoint(prefix)
    restoration.check_values(restoration.object_keys(variables, reader), reader)
    return {"variables": len(variables), "parameters": parameters}


def num_classes(values: dict[str, Any], anchors: int) -> int:
    """Compute how many classes packed weights are for.

    Args:
        values: object path -> array.
        anchors: how many share a position of a feature map.

    Raises:
        StageError: kind ``checkpoint``; there is no class head, or one for other anchors.
    """
    bias = values.get(CLASS_BIAS)
    if bias is None or bias.ndim != 1 or not bias.size or bias.size % anchors:
        found = "are not there" if bias is None else f"have the shape {list(bias.shape)}"
        raise StageError(
            "checkpoint",
            f"The packed weights are not those of an EfficientDet-Lite: the biases of its class"
            f" head ({CLASS_BIAS}) {found}.",
            f"They are a list of {anchors} numbers a class; pack a whole EfficientDetNet.",
        )
    return int(bias.size) // anchors
