"""A stage of the tests: an SSD checkpoint with seeded random weights, in the zoo's layout."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stages import detection_model, pipeline
from stages.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "seed": REQUIRED,  # int
    "only": None,  # name of the one child of the model that is saved; None: the whole model
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model`` for the ``pipeline_config`` given.

    Batch norms get statistics far from the defaults (which would hide a failed restore), and
    kernels are scaled so that values neither vanish nor all saturate on their way through.
    """
    import numpy as np

    from stages import tensorflow_setup

    tf = tensorflow_setup.load()
    folder = out / "model"
    folder.mkdir()
    shutil.copyfile(inputs["pipeline_config"], folder / "pipeline.config")
    config = pipeline.read_pipeline(folder)
    model = detection_model.build(config)
    detection_model.create_variables(model, pipeline.fix_image_size(config, None))
    random = np.random.Generator(np.random.PCG64(params["seed"]))
    root = tf.train.Checkpoint(model=model)
    from tensorflow.python.checkpoint.graph_view import ObjectGraphView

    trackables, paths = ObjectGraphView(root).breadth_first_traversal()
    names = {
        "/".join(reference.name for reference in paths[item]): item
        for item in trackables
        if isinstance(item, tf.Variable)
    }
    names.pop("save_counter", None)
    for name in sorted(names):
        variable = names[name]
        values = _values(random, name.rpartition("/")[2], variable.shape.as_list())
        # Heads that speak up less: scores then spread instead of all being 1.
        variable.assign(values * (0.15 if name.startswith("model/_box_predictor") else 1.0))
    if params["only"]:
        part = tf.Module()
        setattr(part, params["only"], getattr(model, params["only"]))
        root = tf.train.Checkpoint(model=part)
    tf.train.CheckpointManager(root, str(folder / "checkpoint"), 1).save(checkpoint_number=0)
    return {"variables": len(names)}


def _values(random: Any, kind: str, shape: list[int]) -> Any:
    if kind == "gamma":
        return random.uniform(0.5, 1.5, shape)
    if kind == "moving_variance":
        return random.uniform(0.25, 4.0, shape)
    if kind == "moving_mean":
        return random.uniform(-0.5, 0.5, shape)
    if kind in ("beta", "bias"):
        return random.uniform(-0.5, 0.5, shape)
    inputs = shape[0] * shape[1] * (shape[2] if "depthwise" not in kind else 1)
    return random.normal(0.0, (2.0 / inputs) ** 0.5, shape)
