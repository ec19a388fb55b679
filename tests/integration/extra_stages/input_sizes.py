"""A stage of the tests: what is said of inputs of other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.odapi import detection_model, pipeline
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED
from stages.steps import export

ENVIRONMENT = "main"

PARAMS = {
    "sizes": REQUIRED,  # list of [height, width] in pixels, each tried with a new model
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Build the model of ``model/pipeline.config`` for each size, and make its variables.

    Where ``model`` holds a checkpoint too, it is exported instead as the seed does it: nothing is
    run before it is traced.

    Returns:
        Facts: by size, ``HxW``: ``[]`` where it is fine, ``[kind, message, remedy]`` where not.
    """
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    said: dict[str, Any] = {}
    for height, width in params["sizes"]:
        try:
            _try(inputs["model"], [height, width], out, emit)
            said[f"{height}x{width}"] = []
        except StageError as error:
            said[f"{height}x{width}"] = [error.kind, error.message, error.remedy]
    return said


def _try(model: Path, size: list[int], out: Path, emit: Any) -> None:
    if (model / "checkpoint").exists():
        plain = {**export.PARAMS, "image_size": size, "exact_batch_norm": False}
        export.run(plain, {"checkpoint": model}, out, emit)
        return
    config = pipeline.read_pipeline(model)
    fixed = pipeline.fix_image_size(config, size)
    detection_model.create_variables(detection_model.build(config), fixed)
