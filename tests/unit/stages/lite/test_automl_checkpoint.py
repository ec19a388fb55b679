"""EfficientDet-Lite's checkpoints without TensorFlow: which values no net is restored from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_graphs import Reader

from stages.lite import automl_checkpoint
from stages.lite.automl_checkpoint import Checkpoint
from stages.protocol.failures import StageError

NAME = "class_net/class-predict/bias"
NET = SimpleNamespace(weights=[SimpleNamespace(name=f"{NAME}:0", shape=[2])])


@pytest.mark.parametrize("saved_model", [False, True])
def test_a_diverged_training(saved_model: bool) -> None:
    reader = Reader({NAME: [1.0, float("nan")], "global_step": 7})
    checkpoint = Checkpoint(Path("ckpt-7"), reader, "tf1", saved_model=saved_model)
    with pytest.raises(StageError) as caught:
        automl_checkpoint._fitting(checkpoint, NET)
    assert caught.value.kind == "checkpoint"
    assert f"{NAME} (1 of 2)" in caught.value.message
    assert ("SavedModel" in caught.value.message) == saved_model


def test_of_averages_only_those_count() -> None:
    """What is averaged may have diverged since."""
    averaged = f"{NAME}/ExponentialMovingAverage"
    reader = Reader({NAME: [1.0, float("nan")], averaged: [1.0, 2.0]})
    checkpoint = Checkpoint(Path("ckpt-7"), reader, "tf1-ema")
    assert [key for _, key in automl_checkpoint._fitting(checkpoint, NET).values()] == [averaged]
