"""The hand-written way, conversion: one variant of an exported SavedModel, one process.

Run inside the odapi image by benchmarks/ssd.py, as
``convert.py SAVED_MODEL OUT VARIANT IMAGES``. Prints its peak memory in bytes.
"""

import pathlib
import resource
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

saved_model, out, variant, images = sys.argv[1:]
converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)


def representative():
    for path in sorted(pathlib.Path(images).iterdir()):
        if path.suffix not in (".png", ".jpg"):
            continue
        pixels = np.asarray(Image.open(path).convert("RGB").resize((300, 300)), np.float32)
        yield [(pixels[None] - 127.5) / 127.5]


if variant != "float32":
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
if variant == "float16":
    converter.target_spec.supported_types = [tf.float16]
if variant == "int8":
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
converter.allow_custom_ops = True
pathlib.Path(out).write_bytes(converter.convert())
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
