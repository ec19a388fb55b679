"""What is said of a checkpoint before a model is restored from it; with one: tests/integration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpoint_graphs import Graph, Reader

from stages.odapi import checkpoint_graph, restoration
from stages.protocol.failures import StageError

PREFIX = Path("training/ckpt-7")
MODEL = {"_feature_extractor": 2, "_box_predictor": 2}
KERNEL, AVERAGE = "net/kernel", "net/kernel/average"


def opened(
    monkeypatch: pytest.MonkeyPatch,
    root: dict[str, int],
    asked: bool = False,
    average: Any = None,
) -> restoration.Training:
    """A checkpoint with one model and one weight; and with its average, where one is given."""
    tensors = {KERNEL: [0.5, 2.0]}
    if average is not None:
        tensors[AVERAGE] = average
    graph = Graph(
        [root, MODEL, {"kernel": 4}, MODEL, {}, {}],
        values={4: KERNEL, 5: AVERAGE},
        slots={0: [(4, "average", 5)]} if average is not None else {},
    )
    monkeypatch.setattr(restoration, "open_checkpoint", lambda prefix: Reader(tensors))
    monkeypatch.setattr(checkpoint_graph, "read", lambda reader: graph)
    return restoration.open_training(PREFIX, asked)


def test_the_usual_one_needs_no_note(monkeypatch: pytest.MonkeyPatch) -> None:
    training = opened(monkeypatch, {"model": 1, "save_counter": 5})
    assert (training.place, training.notes) == (("model",), ())
    assert training.weights_from == "raw"
    assert training.as_exporter_expects


@pytest.mark.parametrize(
    ("root", "place", "words"),
    [({"net": 1}, ("net",), "as 'net'"), ({**MODEL, "step": 5}, (), "as the root")],
)
def test_another_name_is_noted(
    monkeypatch: pytest.MonkeyPatch, root: dict[str, int], place: tuple[str, ...], words: str
) -> None:
    training = opened(monkeypatch, root)
    assert training.place == place
    (note,) = training.notes
    assert words in note
    assert not training.as_exporter_expects


def test_the_api_s_own_name_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    training = opened(monkeypatch, {"ema_model": 3, "model": 1})
    assert (training.place, training.notes) == (("model",), ())


def test_several_models(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="several detection models: student, teacher") as caught:
        opened(monkeypatch, {"teacher": 1, "student": 3})
    assert caught.value.kind == "checkpoint"


def test_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"no detection model .* root holds classifier, step") as e:
        opened(monkeypatch, {"step": 5, "classifier": 4})
    assert e.value.kind == "checkpoint"


@pytest.mark.parametrize(
    ("asked", "average", "taken", "words"),
    [
        (True, [0.4, 1.5], "averages", "moving averages of the weights are taken"),
        (True, None, "raw", "the checkpoint has none"),
        (True, [0.0, 0.0], "raw", "the checkpoint has none"),  # before the first step
        (False, [0.4, 1.5], "raw", "also has moving averages"),
    ],
)
def test_which_weights(
    monkeypatch: pytest.MonkeyPatch, asked: bool, average: Any, taken: str, words: str
) -> None:
    training = opened(monkeypatch, {"model": 1, "save_counter": 5}, asked, average)
    assert training.weights_from == taken
    assert training.averages == ({KERNEL: AVERAGE} if taken == "averages" else {})
    (note,) = training.notes
    assert words in note and "use_moving_averages" in note
    assert training.as_exporter_expects == (taken == "raw")


NAN, INFINITE = float("nan"), float("inf")


def keys(*names: str) -> restoration.Keys:
    return {name: (SimpleNamespace(), name) for name in names}


def test_finite_values_pass() -> None:
    reader = Reader({"a": np.float32([0.0, -1e30]), "step": np.int64(7), "b": NAN})
    restoration.check_finite(keys("a", "step"), reader)  # "b" is not the model's


def test_values_that_are_not_finite_are_counted_by_name() -> None:
    reader = Reader({"a": [1.0, NAN, -INFINITE], "b": [2.0], "c": [[INFINITE, 0.0]]})
    with pytest.raises(StageError) as caught:
        restoration.check_finite(keys("a", "b", "c"), reader)
    assert caught.value.kind == "checkpoint"
    assert "2 of the 3 variables" in caught.value.message
    assert "NaN or infinite: a (2 of 3), c (1 of 2)" in caught.value.message
    assert "diverged" in caught.value.remedy


def test_only_some_of_many_are_named() -> None:
    reader = Reader({f"v{number}": NAN for number in range(9)})
    with pytest.raises(StageError, match=r"9 of the 9 .*v4 \(1 of 1\), …") as caught:
        restoration.check_finite(keys(*(f"v{number}" for number in range(9))), reader)
    assert "v5" not in caught.value.message
