"""A stage of the tests: a checkpoint with moving averages of its weights, as of a training."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from stages.files.checkpoint_files import find_checkpoint
from stages.odapi import detection_model, pipeline

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}

ASKING = "\neval_config { use_moving_averages: true }\n"
"""What a configuration says whose evaluation uses averages."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/asking`` and ``out/silent``: one checkpoint, two configurations.

    The averages are the weights of the model folder ``inputs["model"]``; the weights themselves are
    other ones. They were saved by a training loop of one's own, with the loop as the root's child.
    """
    import numpy as np

    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    source = inputs["model"]
    config = pipeline.read_pipeline(source)
    model = detection_model.built(config, pipeline.fix_image_size(config, None))
    tf.train.Checkpoint(model=model).restore(str(find_checkpoint(source))).expect_partial()
    random = np.random.Generator(np.random.PCG64(7))
    loop = tf.Module()
    loop.net, loop.optimizer = model, averaging(tf)
    loop.optimizer.shadow_copy(model)
    for variable in model.trainable_variables:
        loop.optimizer.get_slot(variable, "average").assign(variable)
        variable.assign(variable * random.normal(1.0, 0.35, variable.shape.as_list()))
    text = (source / "pipeline.config").read_text("utf-8")
    for name, said in (("asking", ASKING), ("silent", "")):
        (out / name).mkdir()
        (out / name / "pipeline.config").write_text(text + said, "utf-8")
        tf.train.Checkpoint(loop=loop).save(str(out / name / "ckpt"))
    return {"variables": len(model.variables)}


def averaging(tf: Any) -> Any:
    """The optimizer of the Object Detection API's trainings with averages.

    By its file: its package imports what the image does not have.
    """
    import official

    path = Path(official.__file__).parent / "modeling" / "optimization" / "ema_optimizer.py"
    spec = importlib.util.spec_from_file_location("ema_optimizer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ExponentialMovingAverage(tf.keras.optimizers.legacy.SGD(0.1, momentum=0.9))
