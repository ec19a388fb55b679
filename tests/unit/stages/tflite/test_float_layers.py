"""Names of layers, and what a user wants left in float."""

from __future__ import annotations

from dataclasses import replace

import pytest
from places import FIXTURES

from stages.protocol.failures import StageError
from stages.tflite import float_layers, float_tail, tflite_model

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def model() -> tflite_model.Model:
    return tflite_model.read((FIXTURES / "toy_centernet.tflite").read_bytes())


def _named(model: tflite_model.Model, names: dict[int, str]) -> tflite_model.Model:
    """The model with other names of its operators' outputs."""
    tensors = list(model.graph.tensors)
    for operator, name in names.items():
        place = model.graph.operators[operator].outputs[0]
        tensors[place] = replace(tensors[place], name=name)
    return replace(model, subgraphs=(replace(model.graph, tensors=tuple(tensors)),))


def test_a_fused_layer_is_called_by_its_first_part(model: tflite_model.Model) -> None:
    names = float_layers.short_names(model, {})
    assert names["Reshape_2"] == "Reshape_2;Reshape_1"
    assert names["MatMul2"] == "MatMul2"
    assert "PartitionedCall:1" not in names  # TOPK_V2 has two outputs: only a kind


def test_where_two_begin_alike_the_whole_name_tells(model: tflite_model.Model) -> None:
    alike = _named(model, {0: "net/conv;a", 1: "net/conv;b", 2: "net/conv"})
    names = float_layers.short_names(alike, {})
    assert [*names][:3] == ["net/conv;a", "net/conv;b", "net/conv"]
    assert float_layers.chosen(alike, ["net/conv"], {}) == (["net/conv"], [])


def test_an_output_has_its_operation_s_name(model: tflite_model.Model) -> None:
    """By the converter's own rule: with a number where another tensor has it."""
    first, second = (model.graph.operators[place].outputs[0] for place in range(2))
    constant = next(
        place
        for place, tensor in enumerate(model.graph.tensors)
        if not any(place in op.outputs for op in model.graph.operators)
    )
    tensors = list(model.graph.tensors)
    for place, name in ((first, "Call:1"), (second, "Call:0"), (constant, "Squeeze")):
        tensors[place] = replace(tensors[place], name=name)
    raw = replace(model, subgraphs=(replace(model.graph, tensors=tuple(tensors)),))
    outputs = {"Call:1": "Squeeze", "Call:0": "slice"}
    names = float_layers.short_names(raw, outputs)
    assert (names["Squeeze1"], names["slice"]) == ("Call:1", "Call:0")
    wanted = ["Squeeze1", "Call:0"]  # by either name
    assert float_layers.chosen(raw, wanted, outputs) == (["Call:1", "Call:0"], [])


def test_layers_and_kinds_are_told_apart(model: tflite_model.Model) -> None:
    wanted = ["Reshape_2", "FULLY_CONNECTED", "Sigmoid"]
    assert float_layers.chosen(model, wanted, {}) == (
        ["Reshape_2;Reshape_1", "Sigmoid"],
        ["FULLY_CONNECTED"],
    )
    assert float_layers.chosen(model, ["Reshape_2;Reshape_1"], {})[0] == ["Reshape_2;Reshape_1"]
    assert float_layers.chosen(model, [], {}) == ([], [])


@pytest.mark.parametrize(
    ("name", "near"),
    [("Sigmoyd", "Sigmoid"), ("MATMUL", ""), ("FULLY_CONECTED", "FULLY_CONNECTED"), ("é\n", "")],
)
def test_an_unknown_one_is_refused_with_near_names(
    model: tflite_model.Model, name: str, near: str
) -> None:
    with pytest.raises(StageError) as caught:
        float_layers.chosen(model, ["Sigmoid", name], {})
    assert caught.value.kind == "unsupported-model"
    assert repr(name) in caught.value.message
    assert near in caught.value.message
    assert "explain-int8" in caught.value.remedy


def test_the_decoding_stays_in_float_beside_them(model: tflite_model.Model) -> None:
    tail, kinds = float_tail.decoding(model)
    assert float_tail.skipped(model, True, [], {}) == (tail, kinds)
    assert float_tail.skipped(model, False, [], {}) == ([], [])
    names, more = float_tail.skipped(model, True, ["AvgPool2D", "MUL", "MatMul2"], {})
    assert names == [*tail, "AvgPool2D"]  # MatMul2 is in the tail already
    assert more == sorted(["MUL", *kinds])
