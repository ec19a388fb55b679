"""A stage of the tests: what the Object Detection API's exporter makes of a checkpoint.

``exporter_main_v2`` writes the graph of its inference module. Nothing of the stages' code runs it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from stages.odapi import detection_model

ENVIRONMENT = "main"

PARAMS = {
    "saved": False,  # whether the exporter's SavedModel runs; else its module, eagerly (faster)
}

_INPUT = "image_tensor"  # exporter_main_v2's input type: one photograph of any size


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Restore ``inputs["checkpoint"]`` and run it on the PNG files of ``inputs["images"]``.

    Writes ``out/detections.json``: by file name, ``box``, ``score`` and ``class_id``.
    """
    from google.protobuf import text_format

    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    from object_detection.protos import pipeline_pb2

    folder = inputs["checkpoint"]
    text = (folder / "pipeline.config").read_text("utf-8")
    config = text_format.Parse(text, pipeline_pb2.TrainEvalPipelineConfig())
    found = {}
    with tempfile.TemporaryDirectory() as place:
        load = _saved_model if params["saved"] else _module
        detect = load(tf, config, folder / "checkpoint", Path(place))
        for path in sorted(inputs["images"].glob("*.png")):
            image = tf.io.decode_png(tf.io.read_file(str(path)), channels=3)
            answer = {name: value.numpy()[0] for name, value in detect(image[None]).items()}
            found[path.name] = [
                {
                    "box": answer["detection_boxes"][row].tolist(),
                    "score": float(answer["detection_scores"][row]),
                    "class_id": int(answer["detection_classes"][row]),
                }
                for row in range(int(answer["num_detections"]))
            ]
    (out / "detections.json").write_text(json.dumps(found))
    return {}


def _saved_model(tf: Any, config: Any, checkpoint: Path, place: Path) -> Any:
    """Export with the exporter itself, load what it wrote, and return its signature."""
    from keras.src.saving.legacy.saved_model.utils import keras_option_scope
    from object_detection import exporter_lib_v2

    # Keras would add a graph of every layer: minutes, and no part of the signature.
    with detection_model.no_downloads(), keras_option_scope(save_traces=False):
        exporter_lib_v2.export_inference_graph(_INPUT, config, str(checkpoint), str(place))
    loaded = tf.saved_model.load(str(place / "saved_model"))
    signature = loaded.signatures["serving_default"]
    signature.loaded = loaded  # a signature does not keep its variables alive
    return signature


def _module(tf: Any, config: Any, checkpoint: Path, place: Path) -> Any:
    """Make the module that the exporter would save, as it does, and return its eager call."""
    from object_detection import exporter_lib_v2

    with detection_model.no_downloads():
        model = exporter_lib_v2.INPUT_BUILDER_UTIL_MAP["model_build"](
            config.model, is_training=False
        )
    saved = tf.train.Checkpoint(model=model)
    manager = tf.train.CheckpointManager(saved, str(checkpoint), max_to_keep=1)
    saved.restore(manager.latest_checkpoint).expect_partial()
    return exporter_lib_v2.DetectionFromImageModule(model).__call__.python_function
