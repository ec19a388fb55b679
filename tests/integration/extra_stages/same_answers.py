"""A stage of the tests: whether a trained model and the net restored from it answer the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.lite import efficientdet_lite
from stages.protocol.request import REQUIRED
from stages.steps import modelmaker_export

ENVIRONMENT = "main"

PARAMS = {"spec": REQUIRED, "image_size": None, "max_detections": None}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Compare with ``answers.npy`` in the folder ``inputs["checkpoint"]``.

    Returns:
        Facts: ``checkpoint_kind``, ``difference`` (the largest, of logits and box numbers),
        ``spread`` (standard deviation of the trained model's), ``answers`` (how many).
    """
    import numpy as np
    import tensorflow as tf

    theirs = np.load(inputs["checkpoint"] / "answers.npy")
    net, spec, checkpoint, _ = modelmaker_export.restored(params, inputs["checkpoint"])
    answers = net(tf.constant(efficientdet_lite.probes(spec)), training=False)
    ours = np.concatenate([level.numpy().reshape(-1) for part in answers for level in part])
    return {
        "checkpoint_kind": checkpoint.kind,
        "difference": float(np.abs(ours - theirs).max()),
        "spread": float(theirs.std()),
        "answers": len(theirs),
    }
