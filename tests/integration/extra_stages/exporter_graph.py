"""A stage of the tests: what the Object Detection API's exporter makes of a checkpoint.

``exporter_main_v2`` writes the graph of its inference module. Nothing of the stages' code runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.odapi import detection_model

ENVIRONMENT = "main"

PARAMS = {
    "traced": False,  # whether the module runs as a graph, as it is written; else eagerly (faster)
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Restore ``inputs["checkpoint"]`` and run it on the PNG files of ``inputs["images"]``.

    Writes ``out/detections.json``: by file name, ``box``, ``score`` and ``class_id``.
    """
    from google.protobuf import text_format

    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    from object_detection import exporter_lib_v2
    from object_detection.protos import pipeline_pb2

    folder = inputs["checkpoint"]
    text = (folder / "pipeline.config").read_text("utf-8")
    config = text_format.Parse(text, pipeline_pb2.TrainEvalPipelineConfig())
    # As export_inference_graph does before it saves.
    with detection_model.no_downloads():
        model = exporter_lib_v2.INPUT_BUILDER_UTIL_MAP["model_build"](
            config.model, is_training=False
        )
    checkpoint = tf.train.Checkpoint(model=model)
    manager = tf.train.CheckpointManager(checkpoint, str(folder / "checkpoint"), max_to_keep=1)
    checkpoint.restore(manager.latest_checkpoint).expect_partial()
    module = exporter_lib_v2.DetectionFromImageModule(model)
    detect = module.__call__ if params["traced"] else module.__call__.python_function
    found = {}
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
