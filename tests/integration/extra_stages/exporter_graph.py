"""A stage of the tests: what the graph that the Object Detection API's exporter writes finds.

That graph is what ``exporter_main_v2`` gives its users. Nothing of the stages' code runs it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from stages.odapi import detection_model

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Export ``inputs["checkpoint"]`` and run it on the PNG files of ``inputs["images"]``.

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
    with tempfile.TemporaryDirectory() as place, detection_model.no_downloads():
        exporter_lib_v2.export_inference_graph(
            "image_tensor", config, str(folder / "checkpoint"), place
        )
        graph = tf.saved_model.load(str(Path(place) / "saved_model"))
    detect = graph.signatures["serving_default"]
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
