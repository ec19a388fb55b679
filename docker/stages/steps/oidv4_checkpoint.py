"""Stage: convert the embedded sample's TFLite weights to an Object Detection API checkpoint.

The weights file has its batch norms folded into the convolutions. They are unfolded with seeded,
non-trivial statistics that do not change the model's function. So a restore that silently failed is
detected: it would leave a model with default statistics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.files import zoo_folder
from stages.odapi import detection_model, pipeline
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED
from stages.tflite.tflite_weights import Convolution, read_convolutions

ENVIRONMENT = "main"

PARAMS = {"seed": REQUIRED}  # int: seeds the batch norms' statistics

MAX_DIFFERENCE = 1e-3
"""Largest difference allowed between raw outputs (logits, encoded boxes) of the original file
and of the checkpoint. Both compute in float32 in different orders; 2e-4 was measured."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model`` in the zoo's layout.

    Inputs: ``weights`` (.tflite), ``mapping`` (.tsv: scope in the file, layer in the model,
    kernel shape), ``pipeline_config``, ``label_map``.

    Returns:
        Facts: ``convolutions``, ``max_difference`` (see :data:`MAX_DIFFERENCE`).

    Raises:
        StageError: the weights do not fit the mapping or the model, or the checkpoint does not
            compute what the original file computes.
    """
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    seed = params["seed"]
    if type(seed) is not int or seed < 0:
        raise StageError("stage-failed", f"{seed!r} is not a seed.", "Use a whole number from 0.")
    folder = out / "model"
    zoo_folder.begin(folder, inputs)

    config = pipeline.read_pipeline(folder)
    size = pipeline.fix_image_size(config, None)
    model = detection_model.build(config)
    detection_model.create_variables(model, size)
    convolutions = read_convolutions(inputs["weights"])
    targets = _targets(model)
    rows = _read_mapping(inputs["mapping"])
    if {row[0] for row in rows} != set(convolutions) or {row[1] for row in rows} != set(targets):
        raise StageError(
            "checkpoint", "The mapping does not name every convolution of the file and the model."
        )
    for number, (scope, layer, shape) in enumerate(rows):
        if convolutions[scope].kernel.shape != shape:
            raise StageError("checkpoint", f"The kernel of {scope} is not {shape}.")
        _assign(targets[layer], convolutions[scope], seed, number)
    difference = _compare(model, inputs["weights"], size)
    zoo_folder.save(model, folder)
    return {"convolutions": len(rows), "max_difference": difference}


def spread(
    convolution: Convolution, epsilon: float, seed: int, number: int
) -> tuple[Any, Any, Any, Any, Any]:
    """Unfold a convolution with bias into a convolution and a batch norm of the same function.

    Only additions, multiplications, divisions and square roots in float64: those are correctly
    rounded everywhere, so the values do not depend on the CPU.

    Args:
        convolution: the folded one.
        epsilon: the batch norm's epsilon.
        seed: of the whole checkpoint.
        number: of this convolution; every one gets statistics of its own.

    Returns:
        (kernel, gamma, beta, mean, variance), float64; kernel shaped like the given one.
    """
    import numpy as np

    channels = convolution.bias.shape[0]
    random = np.random.Generator(np.random.PCG64([seed, number]))
    gamma = random.uniform(0.5, 1.5, channels)
    mean = random.uniform(-1.0, 1.0, channels)
    variance = random.uniform(0.25, 4.0, channels)
    deviation = np.sqrt(variance + epsilon)
    factor = deviation / gamma
    depthwise = convolution.kernel.shape[2] == channels and convolution.kernel.shape[3] == 1
    kernel = convolution.kernel * (factor[:, None] if depthwise else factor)
    return kernel, gamma, convolution.bias + mean / factor, mean, variance


def _read_mapping(path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        scope, layer, shape = line.split("\t")
        rows.append((scope, layer, tuple(int(side) for side in shape.strip("()").split(","))))
    return rows


def _targets(model: Any) -> dict[str, tuple[Any, Any]]:
    """Layer name -> (convolution, its batch norm or None), for every convolution."""
    extractor = model._feature_extractor
    pairs = {}
    sequences = [extractor.classification_backbone.layers]
    sequences += extractor.feature_map_generator.convolutions
    for layers in sequences:
        last = None
        for layer in layers:
            if hasattr(layer, "moving_variance"):
                pairs[last.name] = (last, layer)
            elif hasattr(layer, "kernel") or hasattr(layer, "depthwise_kernel"):
                last = layer
    for kind, heads in model._box_predictor._prediction_heads.items():
        for number, head in enumerate(heads):
            (layer,) = getattr(head, "_box_encoder_layers", None) or head._class_predictor_layers
            pairs[f"{kind}/{number}"] = (layer, None)
    return pairs


def _assign(target: tuple[Any, Any], convolution: Convolution, seed: int, number: int) -> None:
    layer, norm = target
    variable = layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel
    if norm is None:
        variable.assign(convolution.kernel)
        layer.bias.assign(convolution.bias)
        return
    kernel, gamma, beta, mean, variance = spread(convolution, norm.epsilon, seed, number)
    variable.assign(kernel)
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)


def _compare(model: Any, weights: Path, size: tuple[int, int]) -> float:
    import numpy as np
    import tensorflow as tf

    # A picture of smooth and rough parts, without an image file: gradients and seeded noise.
    y, x = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    noise = np.random.Generator(np.random.PCG64(0)).uniform(-0.3, 0.3, (*size, 3))
    image = np.clip(np.stack([y, x, y * x], -1) + noise, -1, 1).astype(np.float32)[None]
    interpreter = tf.lite.Interpreter(str(weights), num_threads=2)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    original = {
        detail["shape"][-1]: interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_output_details()
    }
    outputs = model.predict(tf.constant(image), None)
    difference = 0.0
    for name in ("box_encodings", "class_predictions_with_background"):
        ours = outputs[name].numpy()
        theirs = original.get(ours.shape[-1])
        if theirs is None or theirs.shape != ours.shape:
            raise StageError("checkpoint", f"The original file has no output like {name}.")
        difference = max(difference, float(np.max(np.abs(ours - theirs))))
    if not difference <= MAX_DIFFERENCE:
        raise StageError(
            "checkpoint",
            f"The checkpoint does not compute what the original file does: raw outputs differ by"
            f" {difference:.2g}.",
        )
    return difference
