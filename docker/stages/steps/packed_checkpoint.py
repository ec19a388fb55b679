"""Stage: convert an embedded sample's packed weights to an Object Detection API checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.files import zoo_folder
from stages.odapi import detection_model, packed_weights, pipeline, restoration

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model`` in the zoo's layout.

    Inputs: ``weights`` (see :mod:`stages.odapi.packed_weights`), ``pipeline_config``,
        ``label_map``.

    Returns:
        Facts: ``variables``, ``parameters`` (how many numbers they hold).

    Raises:
        StageError: the weights cannot be read or are not exactly those of the model that
            ``pipeline_config`` describes, or that model cannot be converted.
    """
    values = packed_weights.read(inputs["weights"])
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    folder = out / "model"
    zoo_folder.begin(folder, inputs)
    config = pipeline.read_pipeline(folder)
    size = pipeline.fix_image_size(config, None)
    model = detection_model.build(config)
    detection_model.create_variables(model, size)
    parameters = packed_weights.assign(packed_weights.variables(model), values)
    saved = restoration.open_training(zoo_folder.save(model, folder), averages=False)
    variables, _ = restoration.check_restored(model, saved)
    return {"variables": variables, "parameters": parameters}
