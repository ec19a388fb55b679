"""Write a model in the detection zoo's layout: ``pipeline.config``, ``label_map.pbtxt`` and
``checkpoint/ckpt-0.*``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def begin(folder: Path, inputs: dict[str, Path]) -> None:
    """Create ``folder`` with copies of the inputs ``pipeline_config`` and ``label_map``."""
    (folder / "checkpoint").mkdir(parents=True)
    shutil.copyfile(inputs["pipeline_config"], folder / "pipeline.config")
    shutil.copyfile(inputs["label_map"], folder / "label_map.pbtxt")


def save(model: Any, folder: Path) -> Path:
    """Save a detection model as the checkpoint of ``folder``, without any time or path in it.

    Returns:
        The checkpoint's prefix.
    """
    import tensorflow as tf

    # A CheckpointManager and not Checkpoint.write: the exporter needs a save_counter.
    inner = folder / "checkpoint"
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(inner), 1)
    prefix = Path(manager.save(checkpoint_number=0))
    # The manager's own state file holds the time of day.
    (inner / "checkpoint").write_text(
        f'model_checkpoint_path: "{prefix.name}"\nall_model_checkpoint_paths: "{prefix.name}"\n'
    )
    return prefix
