"""A stage of the tests: SavedModels that cannot be converted, and what is said of each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stages.protocol.failures import StageError
from stages.saved import saved_model_graph
from stages.steps import saved_model

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}

_CUT = {"damaged_graph": "saved_model.pb", "damaged_variables": "variables.data-00000-of-00001"}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Make them, and read each as the stage ``saved_model`` does.

    ``out/serving`` is what ``exporter_main_v2.py`` writes: bytes in, ``detection_boxes`` out.
    ``inputs["saved_model"]`` is a good one, of which damaged copies are made.

    Returns:
        Facts: by name, ``[kind, message and remedy]`` of the failure.
    """
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    _write(tf, out)
    for name, file in _CUT.items():
        shutil.copytree(inputs["saved_model"], out / name)
        (path,) = (out / name).rglob(file)
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[: len(data) // 2])
    said = {}
    for folder in sorted(out.iterdir()):
        try:
            saved_model_graph.read(folder)
            saved_model._variables(folder)
        except StageError as error:
            said[folder.name] = [error.kind, f"{error.message} {error.remedy}"]
    return said


def _write(tf: Any, out: Path) -> None:
    names = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
    module = tf.Module()
    module.factor = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
    def serve(input_tensor: Any) -> dict[str, Any]:
        mean = tf.reduce_mean(tf.cast(input_tensor, tf.float32)) * module.factor
        return dict.fromkeys(names, mean)

    @tf.function(input_signature=[tf.TensorSpec([1, 64, 64, 3], tf.float32)])
    def classify(image: Any) -> dict[str, Any]:
        return {"probabilities": tf.reduce_mean(image, axis=[1, 2]) * module.factor}

    @tf.function(input_signature=[tf.TensorSpec([1, 64, 64, 3], tf.float32)])
    def keypoints(image: Any) -> dict[str, Any]:
        return {f"output_{number}": image * module.factor for number in range(6)}

    @tf.function(input_signature=[tf.TensorSpec([8, 64, 64, 1], tf.float32)])
    def batch(image: Any) -> dict[str, Any]:
        return {"output_0": image * module.factor}

    module.functions = [serve, classify, keypoints, batch]
    signatures = {"serving": serve, "classifier": classify, "keypoints": keypoints, "batch": batch}
    for name, signature in {**signatures, "unsigned": None}.items():
        tf.saved_model.save(module, str(out / name), signatures=signature)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        image = tf.compat.v1.placeholder(tf.float32, [1, 64, 64, 3])
        factor = tf.compat.v1.get_variable("factor", [])
        session.run(factor.initializer)
        answers = {"answer": image * factor}
        tf.compat.v1.saved_model.simple_save(session, str(out / "tf1"), {"image": image}, answers)
