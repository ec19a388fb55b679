"""A stage of the tests: what is said of an export one of whose variables holds a NaN."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stages.protocol.failures import StageError
from stages.steps import saved_model

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Put a NaN into a kernel of ``inputs["saved_model"]``, and give it to the stage.

    Returns:
        Facts: ``refused``: kind, message, remedy; empty where it was taken.
    """
    import numpy as np

    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    folder = out / "diverged"
    shutil.copytree(inputs["saved_model"], folder)
    prefix = folder / "variables" / "variables"
    reader = tf.train.load_checkpoint(str(prefix))
    tensors = {key: reader.get_tensor(key) for key in sorted(reader.get_variable_to_shape_map())}
    key = next(key for key, value in tensors.items() if getattr(value, "ndim", 0) == 4)
    tensors[key] = tensors[key].copy()
    tensors[key].flat[0] = np.nan
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    given = {"saved_model": folder, "label_map": inputs["label_map"]}
    try:
        saved_model.run(saved_model.PARAMS, given, out, emit)
    except StageError as error:
        return {"refused": [error.kind, error.message, error.remedy]}
    return {"refused": []}
