"""Stage of the tests: export a small network twice and convert both, all variants.

Convolutions, one of them depthwise, and batch norms, with numbers that are the same on every
processor. ``exact`` is exported with the project's fold of batch norms, ``plain`` as Keras does it.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from stages.odapi import exact_batch_norm, tensorflow_setup
from stages.protocol.request import REQUIRED
from stages.steps import convert

ENVIRONMENT = "main"

#: ``machine``: what it runs on, so that each has a result of its own.
PARAMS = {"machine": REQUIRED}

_SIDE = 16
_NORMALIZATION = {"mean": [127.5] * 3, "std": [127.5] * 3}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Convert both; facts: ``digests``, export -> variant -> SHA-256 of the ``.tflite`` file."""
    import numpy as np
    from PIL import Image

    tf = tensorflow_setup.load()
    random = np.random.default_rng(7)
    model = _network(tf, random)
    images = out / "images"
    images.mkdir()
    noise = random.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
    Image.fromarray(noise).save(images / "noise.png")
    digests: dict[str, dict[str, str]] = {}
    for name, folding in {
        "plain": contextlib.nullcontext,
        "exact": exact_batch_norm.exact_batch_norms,
    }.items():
        with folding():
            _save(tf, model, out / name)
        digests[name] = {}
        for variant in convert.VARIANTS:
            place = out / f"{name}-{variant}"
            place.mkdir()
            floats = out / f"{name}-float32" / "model.tflite"  # the first of the variants
            given = {"saved_model": out / name, "images": images, "float32": floats}
            chosen = {**convert.PARAMS, "variant": variant, "normalization": _NORMALIZATION}
            convert.run(chosen, given, place, emit)
            data = (place / "model.tflite").read_bytes()
            digests[name][variant] = hashlib.sha256(data).hexdigest()
    return {"digests": digests}


def _network(tf: Any, random: Any) -> Any:
    import numpy as np

    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.InputLayer((_SIDE, _SIDE, 3), batch_size=1)])
    for _ in range(3):
        model.add(layers.Conv2D(64, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU(6.0))
    # As many weights as make the converter quantise them.
    model.add(layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", use_bias=False))
    model.add(layers.BatchNormalization())
    for variable in model.weights:
        least = 1 if "variance" in variable.name else -(1 << 20)
        variable.assign(
            (random.integers(least, 1 << 20, variable.shape) / 2**20).astype(np.float32)
        )
    return model


def _save(tf: Any, model: Any, folder: Path) -> None:
    call = tf.function(lambda image: {"out": model(image, training=False)})
    image = tf.TensorSpec([1, _SIDE, _SIDE, 3], tf.float32, "image")
    module = tf.Module()
    module.kept = model.variables  # not the model: Keras would trace and save it in its own way
    tf.saved_model.save(module, str(folder), signatures=call.get_concrete_function(image))
