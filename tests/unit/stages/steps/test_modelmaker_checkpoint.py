"""How many classes packed weights are for; the rest of the stage needs Model Maker."""

from __future__ import annotations

import numpy as np
import pytest

from stages.protocol.failures import StageError
from stages.steps.modelmaker_checkpoint import CLASS_BIAS, num_classes

ANCHORS = 9


def test_classes_are_counted_by_the_biases() -> None:
    assert num_classes({CLASS_BIAS: np.zeros(45, np.float32)}, ANCHORS) == 5


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "are not there"),
        ({CLASS_BIAS: np.zeros(44, np.float32)}, r"shape \[44\]"),
        ({CLASS_BIAS: np.zeros(0, np.float32)}, r"shape \[0\]"),
        ({CLASS_BIAS: np.zeros((9, 5), np.float32)}, r"shape \[9, 5\]"),
    ],
)
def test_other_biases_are_refused(values: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(StageError, match=reason) as caught:
        num_classes(values, ANCHORS)
    assert caught.value.kind == "checkpoint"
