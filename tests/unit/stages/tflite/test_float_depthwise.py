"""Depthwise weights put back in float, on a small model that today's LiteRT runs."""

from __future__ import annotations

from typing import Any

import depthwise_toy as toy
import numpy as np
import pytest
from tflite_files import fixture

from kiln.tflite.reading import load
from stages.protocol.failures import StageError
from stages.tflite import float_depthwise, tflite_model


def restored(dynamic: bytes | None = None, floats: bytes | None = None) -> bytes:
    return float_depthwise.restored(dynamic or toy.model(True), floats or toy.model(False))


def weight(data: bytes, name: str) -> tuple[str, bytes]:
    model = tflite_model.read(data)
    (tensor,) = (tensor for tensor in model.graph.tensors if tensor.name == name)
    return tensor.type, bytes(model.buffers[tensor.buffer])


def test_depthwise_weights_are_the_float_ones_and_others_stay_int8() -> None:
    dynamic, floats = toy.model(True), toy.model(False)
    found = restored(dynamic, floats)
    assert weight(found, "dw") == weight(floats, "dw") == (
        "float32", toy.weights()["depthwise"].tobytes()
    )  # fmt: skip
    assert weight(found, "pw") == weight(dynamic, "pw")
    assert weight(found, "pw")[0] == "int8"


def test_the_operator_gets_the_version_for_float_weights() -> None:
    versions = {op.name: op.version for op in load(restored()).graphs[0].operators}
    assert versions == {"DEPTHWISE_CONV_2D": 1, "CONV_2D": 5}


def test_a_runtime_computes_with_them() -> None:
    dynamic, floats = toy.model(True), toy.model(False)
    exact, rounded, found = (toy.answer(data) for data in (floats, dynamic, restored()))
    error, before = (float(np.abs(one - exact).max()) for one in (found, rounded))
    assert 0 < error < before


def test_weights_are_where_runtimes_read_them_in_place() -> None:
    found = restored()
    content = toy.weights()["depthwise"].tobytes()
    assert found.count(content) == 1
    assert found.index(content) % 16 == 0


def test_the_same_bytes_each_time() -> None:
    assert restored() == restored()


@pytest.mark.parametrize("data", [toy.model(False), fixture("toy_ssd")])
def test_no_such_weight_is_quantised(data: bytes) -> None:
    assert float_depthwise.restored(data, data) is data


def per_tensor(model: Any) -> None:
    """One scale for all channels, as old converters quantise."""
    tensor = model.subgraphs[0].tensors[1]
    values = toy.weights()["depthwise"]
    scale = float(np.abs(values).max()) / 127
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    steps = np.rint(values / scale).astype(np.int8)
    model.buffers[tensor.buffer].data = np.frombuffer(steps.tobytes(), np.uint8)


def test_one_scale_for_all_channels() -> None:
    assert weight(restored(toy.model(True, change=per_tensor)), "dw")[0] == "float32"


def rename(model: Any) -> None:
    model.subgraphs[0].tensors[model.subgraphs[0].operators[0].outputs[0]].name = b"another"


def share(model: Any) -> None:
    """The convolution reads the depthwise weights, too."""
    model.subgraphs[0].operators[1].inputs[1] = 1


def one_graph_more(model: Any) -> None:
    model.subgraphs = model.subgraphs * 2


def cut(model: Any) -> None:
    buffer = model.buffers[model.subgraphs[0].tensors[1].buffer]
    buffer.data = buffer.data[:-1]


def off_by_a_step(model: Any) -> None:
    buffer = model.buffers[model.subgraphs[0].tensors[1].buffer]
    values = np.array(buffer.data, np.uint8).view(np.int8)
    values[4] += 1 if values[4] < 100 else -1
    buffer.data = values.view(np.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "their depthwise convolutions differ"),
        (share, "dw is no weight alone"),
        (one_graph_more, "they have 2 and 1 graphs"),
        (cut, "dw is stored otherwise"),
        (off_by_a_step, "dw holds other weights"),
    ],
)
def test_conversions_of_two_graphs_are_told_apart(change: Any, words: str) -> None:
    with pytest.raises(StageError, match=words):
        restored(toy.model(True, change=change))


def test_weights_of_another_model_are_told_apart() -> None:
    kernels = {name: -values for name, values in toy.weights().items()}
    with pytest.raises(StageError, match="dw holds other weights than dw"):
        restored(floats=toy.model(False, kernels))
