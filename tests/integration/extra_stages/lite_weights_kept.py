"""A stage of the tests: whether a float32 file holds an EfficientDet-Lite's weights, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.odapi import exact_batch_norm
from stages.protocol.request import REQUIRED
from stages.steps import modelmaker_export
from stages.tflite import tflite_model

ENVIRONMENT = "main"

PARAMS = {"spec": REQUIRED, "image_size": None, "max_detections": None}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Look for what ``inputs["checkpoint"]`` holds among the constants of ``inputs["model"]``.

    A kernel is there as it is, or times the scale of a batch norm, in TFLite's layout: [out,
    height, width, in], depthwise [1, height, width, channels]. What a batch norm adds is there
    as it is, or with its scale times the bias of the convolution before it. (Scale and shift are
    float32, rounded once; so is each product and sum.) The last layers' biases are there as
    they are.

    Returns:
        Facts: ``kernels``, ``shifts``, ``last_biases`` (how many were looked for), ``missing``
        (names).
    """
    import numpy as np

    net, _, _, _ = modelmaker_export.restored(params, inputs["checkpoint"])
    data = tflite_model.read(inputs["model"].read_bytes())
    held = {bytes(data.buffers[tensor.buffer]) for tensor in data.graph.tensors} - {b""}
    norms = list(
        {
            id(layer): (layer.moving_mean.name, *exact_batch_norm.fold_layer(layer))
            for layer in net.submodules
            if hasattr(layer, "moving_variance")
        }.values()
    )
    weights = {variable.name: variable.numpy() for variable in net.weights}
    missing = []
    kernels = {name: values for name, values in weights.items() if "kernel" in name}
    for name, kernel in kernels.items():
        deep = "depthwise_kernel" in name
        turned = kernel.transpose((3, 0, 1, 2))
        scales = [np.float32(1)] + [
            scale if deep else scale.reshape(-1, 1, 1, 1)
            for _, scale, _ in norms
            if len(scale) == (kernel.shape[2] if deep else kernel.shape[3])
        ]
        if not any((turned * scale).tobytes() in held for scale in scales):
            missing.append(name)
    biases = {name: values for name, values in weights.items() if name.endswith("/bias:0")}
    for name, scale, shift in norms:
        sums = [shift] + [
            bias * scale + shift for bias in biases.values() if len(bias) == len(shift)
        ]
        if not any(values.tobytes() in held for values in sums):
            missing.append(name)
    last = [name for name in biases if "-predict/" in name]
    missing += [name for name in last if biases[name].tobytes() not in held]
    return {
        "kernels": len(kernels),
        "shifts": len(norms),
        "last_biases": len(last),
        "missing": sorted(missing),
    }
