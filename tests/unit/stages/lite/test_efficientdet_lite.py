"""Whether prediction heads look untrained; and which parameters are refused early."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stages.lite import efficientdet_lite
from stages.lite.automl_checkpoint import _trained_key
from stages.odapi.pipeline import SUPPRESSION
from stages.protocol.failures import StageError

PRIOR = float(-np.log(99))
SPREAD = np.array([0.001, 0.2, 0.9])


def _truncated(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """As ``VarianceScaling()`` draws: redrawn where beyond two deviations."""
    size = int(np.prod(shape))
    values = random.normal(0, 1, 2 * size)
    values = values[np.abs(values) <= 2][:size]
    fan_in = np.prod(shape[:3])
    return (values.reshape(shape) / np.sqrt(fan_in) / 0.87962566103423978).astype(np.float32)


class _Weight:
    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, np.float32)
        self.shape = SimpleNamespace(rank=self.values.ndim, n=self.values.shape)
        self.dtype = "float32"

    def numpy(self) -> Any:
        return self.values


def _head(bias: Any, initial: float, scale: float = 1.0) -> Any:
    """A separable convolution as far as it is looked at; kernels ``scale`` times random ones."""
    random = np.random.default_rng(5)
    bias = _Weight(bias)
    kernels = [
        _Weight(scale * _truncated(random, shape)) for shape in ((3, 3, 64, 1), (1, 1, 64, 45))
    ]

    def initializer(shape: Any, dtype: str) -> _Weight:
        return _Weight(np.full(shape.n, initial))

    return SimpleNamespace(bias=bias, bias_initializer=initializer, weights=[*kernels, bias])


@pytest.mark.parametrize("shape", [(3, 3, 64, 1), (1, 1, 64, 45), (1, 1, 224, 810)])
def test_fresh_kernels_look_random(shape: tuple[int, ...]) -> None:
    kernel = _truncated(np.random.default_rng(1), shape)
    assert efficientdet_lite.looks_random(kernel)


@pytest.mark.parametrize(
    "change",
    [
        lambda kernel: kernel * 1.5,
        lambda kernel: kernel * 0.5,
        lambda kernel: kernel + 0.2,
        lambda kernel: np.where(np.arange(kernel.shape[-1]) == 0, 9 * kernel, kernel),
    ],
)
def test_other_kernels_do_not(change: Any) -> None:
    kernel = _truncated(np.random.default_rng(1), (1, 1, 64, 45))
    assert not efficientdet_lite.looks_random(change(kernel))


def test_fresh_heads_are_untrained() -> None:
    reasons = efficientdet_lite.untrained(
        _head([PRIOR] * 45, PRIOR), _head([0.0] * 36, 0.0), SPREAD
    )
    assert len(reasons) == 3
    assert reasons[0].startswith("all 45 biases of the class head")
    assert "-4.59512, and its kernels look as their random initialiser" in reasons[0]
    assert reasons[1].startswith("all 36 biases of the box head")
    assert "0.001 to 0.9" in reasons[2]


def test_one_fresh_head_is_enough() -> None:
    (reason, _) = efficientdet_lite.untrained(
        _head([PRIOR] * 44 + [-4.6], PRIOR), _head([0.0] * 36, 0.0, scale=2.0), SPREAD
    )
    assert "box head" in reason
    assert "kernels" not in reason


def test_trained_heads_are_trained_even_with_random_looking_kernels() -> None:
    class_head = _head([PRIOR] * 44 + [-4.6], PRIOR)
    box_head = _head([0.0] * 35 + [1e-6], 0.0)
    assert efficientdet_lite.untrained(class_head, box_head, SPREAD) == []


def test_scores_that_are_the_same_everywhere() -> None:
    class_head = _head([PRIOR] * 44 + [-4.6], PRIOR)
    box_head = _head([0.0] * 35 + [1e-6], 0.0)
    (reason,) = efficientdet_lite.untrained(class_head, box_head, np.array([0.01, 0.0101]))
    assert "the same whatever is in the image" in reason


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("efficientdet_lite5", 5), "efficientdet_lite5"),
        (("efficientdet_lite0", 0), "num_classes"),
        (("efficientdet_lite0", 5, [0, 320]), "image_size"),
        (("efficientdet_lite0", 5, [320, 320, 3]), "height"),
        (("efficientdet_lite0", 5, None, True), "max_detections"),
    ],
)
def test_senseless_parameters_are_refused(arguments: tuple[Any, ...], word: str) -> None:
    with pytest.raises(StageError, match=word):
        efficientdet_lite.model_spec(*arguments)


def test_where_model_makers_training_saves_a_variable() -> None:
    value = "/.ATTRIBUTES/VARIABLE_VALUE"
    assert _trained_key("class_net/class-predict/bias") == f"classes/bias{value}"
    assert _trained_key("box_net/box-predict/bias") == f"boxes/bias{value}"
    name = "class_net/class-0-bn-3/beta"
    assert _trained_key(name) == f"base_model/class_net.Sclass-0-bn-3.Sbeta:0{value}"


def test_what_the_detection_operator_is_told() -> None:
    nothing = dict.fromkeys(SUPPRESSION)
    own = SimpleNamespace(score_thresh=0.0, iou_thresh=None)
    config = SimpleNamespace(nms_configs=own)
    found = efficientdet_lite.suppression(config, nothing)
    assert found == {
        "regular": False,
        "score_threshold": None,
        "iou_threshold": 0.5,
        "detections_per_class": 100,
    }
    wanted = {"regular_nms": True, "nms_score_threshold": 0.05, "max_detections_per_class": 2}
    assert efficientdet_lite.suppression(config, {**nothing, **wanted}) == {
        "regular": True,
        "score_threshold": 0.05,
        "iou_threshold": 0.5,
        "detections_per_class": 2,
    }
    assert (own.score_thresh, own.iou_thresh) == (0.0, None)
