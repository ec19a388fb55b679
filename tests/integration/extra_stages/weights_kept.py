"""A stage of the tests: whether a float32 file holds the checkpoint's weights, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.files.checkpoint_files import find_checkpoint
from stages.odapi import detection_model, exact_batch_norm, pipeline, restoration
from stages.tflite import tflite_model

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Look for each kernel of ``inputs["checkpoint"]`` among the constants of ``inputs["model"]``.

    A kernel is there as it is, or times the scale of a batch norm (float32, rounded once), in
    TFLite's layout: [out, height, width, in], depthwise [1, height, width, channels].

    Returns:
        Facts: ``kernels`` (in the checkpoint's model), ``plain``, ``folded`` (how many are there
        in which way), ``missing`` (names).
    """
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    config = pipeline.read_pipeline(inputs["checkpoint"])
    model = detection_model.build(config)
    detection_model.create_variables(model, pipeline.fix_image_size(config, None))
    prefix = find_checkpoint(inputs["checkpoint"])
    training = restoration.open_training(prefix, pipeline.evaluates_averages(config))
    restoration.restore(model, training)
    scales: dict[int, list[Any]] = {}
    kernels = {}
    for layer in model.submodules:
        if hasattr(layer, "moving_variance"):
            scale, _ = exact_batch_norm.fold_layer(layer)
            scales.setdefault(len(scale), []).append(scale)
        elif isinstance(layer, tf.keras.layers.Layer):
            for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
                variable = getattr(layer, name, None)
                if isinstance(variable, tf.Variable):
                    kernels[variable.ref()] = (f"{layer.name}/{name}", variable.numpy())
    data = tflite_model.read(inputs["model"].read_bytes())
    held = {bytes(data.buffers[tensor.buffer]) for tensor in data.graph.tensors} - {b""}
    found = {"plain": 0, "folded": 0}
    missing = []
    for name, kernel in kernels.values():
        # Depthwise kernels are [height, width, channels, 1]; so is a Conv2D of one output.
        deep = kernel.ndim == 4 and "depthwise" in name
        turned = kernel.transpose((3, 0, 1, 2)) if kernel.ndim == 4 else kernel.T
        channels = kernel.shape[2] if deep else kernel.shape[-1]
        if turned.tobytes() in held:
            found["plain"] += 1
        elif any(
            (turned * (scale if deep else scale.reshape(-1, *[1] * (turned.ndim - 1)))).tobytes()
            in held
            for scale in scales.get(channels, [])
        ):
            found["folded"] += 1
        else:
            missing.append(name)
    return {"kernels": len(kernels), **found, "missing": sorted(missing)}
