"""A stage of the tests: a checkpoint as TensorFlow 1 wrote them, in the zoo's layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model`` for the ``pipeline_config`` given: names, but no object graph."""
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    folder = out / "model"
    (folder / "checkpoint").mkdir(parents=True)
    shutil.copyfile(inputs["pipeline_config"], folder / "pipeline.config")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("FeatureExtractor/Conv/weights", [3, 3, 3, 8])
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(folder / "checkpoint" / "model.ckpt"), write_meta_graph=False)
    return {}
