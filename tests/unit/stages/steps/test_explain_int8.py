"""Which layer of the calibrated graph a measured tensor belongs to."""

from __future__ import annotations

from dataclasses import replace

from places import FIXTURES

from stages.steps import explain_int8
from stages.tflite import tflite_model


def graph(*names: str) -> tflite_model.Model:
    """The first operators of a toy, with outputs of these names."""
    model = tflite_model.read((FIXTURES / "toy_centernet.tflite").read_bytes())
    operators = model.graph.operators[: len(names)]
    tensors = list(model.graph.tensors)
    for operator, name in zip(operators, names, strict=True):
        tensors[operator.outputs[0]] = replace(tensors[operator.outputs[0]], name=name)
    part = replace(model.graph, tensors=tuple(tensors), operators=operators)
    return replace(model, subgraphs=(part,))


def matched(model: tflite_model.Model, *shown: str) -> list[str]:
    measured = {name: {"scale": float(place)} for place, name in enumerate(shown)}
    found = explain_int8._matched(model, measured)
    # In the order of the graph, each with its own figures.
    assert [item["scale"] for item in found.values()] == sorted(
        item["scale"] for item in found.values()
    )
    return list(found)


def test_digits_behind_a_name_are_no_part_of_it() -> None:
    model = graph("net/conv", "net/conv1", "net/conv2", "net/last")
    assert matched(model, "net/conv", "net/conv11", "net/conv21", "net/last") == [
        "net/conv", "net/conv1", "net/conv2", "net/last",
    ]  # fmt: skip


def test_layers_that_are_not_quantised_are_passed_over() -> None:
    model = graph("net/conv", "net/conv1", "net/conv2", "net/last")
    assert matched(model, "net/conv11", "net/last1") == ["net/conv1", "net/last"]
    assert matched(model, "net/conv2") == ["net/conv2"]
    assert matched(model, "net/convolution") == []
