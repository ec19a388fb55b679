"""A stage of the tests: the same detector, made by another exporter that wants other pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "mean": REQUIRED,  # the new graph takes (pixel - mean) / std
    "std": REQUIRED,
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Convert ``inputs["saved_model"]``, a CenterNet that takes raw pixels, to ``model.tflite``.

    Its outputs come in another order and have other names: boxes, classes, scores, count, as
    ``a`` to ``d``.
    """
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    loaded = tf.saved_model.load(str(inputs["saved_model"]))  # kept: it owns the variables
    inner = loaded.signatures["serving_default"]
    (spec,) = inner.structured_input_signature[1].values()
    mean, std = params["mean"], params["std"]

    @tf.function(input_signature=[tf.TensorSpec(spec.shape, tf.float32, name="pixels")])
    def detect(pixels: Any) -> dict[str, Any]:
        found = inner(**{spec.name: pixels * std + mean})
        return {name: found[f"output_{3 - n}"] for n, name in enumerate("abcd")}

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [detect.get_concrete_function()], loaded
    )
    (out / "model.tflite").write_bytes(converter.convert())
    return {}
