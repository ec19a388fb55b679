from __future__ import annotations

from dataclasses import replace

import pytest
from places import FIXTURES

from stages.protocol.failures import StageError
from stages.tflite import output_roles, tflite_model


def model(name: str) -> tflite_model.Model:
    return tflite_model.read((FIXTURES / f"{name}.tflite").read_bytes())


def with_outputs(source: tflite_model.Model, outputs: list[int]) -> tflite_model.Model:
    return replace(source, subgraphs=(replace(source.graph, outputs=tuple(outputs)),))


def by_signature(found: dict[str, output_roles.Output]) -> dict[str, str]:
    return {role: output.signature_name for role, output in found.items()}


# The exporter returns count, scores, classes, boxes; both toys are exported in that order.
EXPORTED = {"boxes": "output_3", "classes": "output_2", "scores": "output_1", "count": "output_0"}


@pytest.mark.parametrize(
    ("name", "architecture"), [("toy_ssd", "ssd"), ("toy_centernet", "centernet")]
)
def test_roles_follow_the_tensors_whatever_the_order(name: str, architecture: str) -> None:
    source = model(name)
    order = list(source.graph.outputs)
    for outputs in (order, order[::-1], sorted(order), order[2:] + order[:2]):
        found = output_roles.derive(with_outputs(source, outputs), architecture)
        assert list(found) == list(output_roles.ROLES)
        assert by_signature(found) == EXPORTED
        assert all(outputs[output.position] == output.tensor for output in found.values())


def test_without_a_signature() -> None:
    source = replace(model("toy_centernet"), signatures=())
    expected = output_roles.derive(model("toy_centernet"), "centernet")
    found = output_roles.derive(source, "centernet")
    assert {role: output.tensor for role, output in found.items()} == {
        role: output.tensor for role, output in expected.items()
    }


def test_contradicting_numbering_is_refused() -> None:
    source = model("toy_centernet")
    (signature,) = source.signatures
    outputs = dict(signature.outputs)
    outputs["output_1"], outputs["output_2"] = outputs["output_2"], outputs["output_1"]
    swapped = replace(source, signatures=(replace(signature, outputs=outputs),))
    with pytest.raises(StageError, match="looks like the"):
        output_roles.derive(swapped, "centernet")


def test_numbering_decides_where_nothing_is_cast() -> None:
    source = model("toy_centernet")
    operators = tuple(
        replace(operator, builtin=0) if operator.builtin == tflite_model.OP_CAST else operator
        for operator in source.graph.operators
    )
    blind = replace(source, subgraphs=(replace(source.graph, operators=operators),))
    assert by_signature(output_roles.derive(blind, "centernet")) == EXPORTED
    with pytest.raises(StageError, match="cannot be told apart"):
        output_roles.derive(replace(blind, signatures=()), "centernet")


def test_chosen_names() -> None:
    source = model("toy_centernet")
    tensor = output_roles.derive(source, "centernet")["count"].name
    found = output_roles.derive(source, "centernet", {**EXPORTED, "count": tensor})
    assert by_signature(found) == EXPORTED
    for chosen in (
        {"boxes": "output_3"},
        {**EXPORTED, "boxes": "output_9"},
        {**EXPORTED, "boxes": "output_0"},
        {**EXPORTED, "masks": "output_0"},
    ):
        with pytest.raises(StageError) as caught:
            output_roles.derive(source, "centernet", chosen)
        assert caught.value.kind == "unsupported-model"


def test_unfitting_graphs() -> None:
    ssd, centernet = model("toy_ssd"), model("toy_centernet")
    order = list(centernet.graph.outputs)
    for unfit, architecture in (
        (ssd, "centernet"),
        (centernet, "ssd"),
        (centernet, "efficientdet"),
        (with_outputs(centernet, order[:3]), "centernet"),
        (with_outputs(centernet, [order[0], order[0], order[0], order[0]]), "centernet"),
        (with_outputs(ssd, [0, *ssd.graph.outputs[1:]]), "ssd"),
    ):
        with pytest.raises(StageError) as caught:
            output_roles.derive(unfit, architecture)
        assert caught.value.kind == "unsupported-model"
        assert caught.value.remedy
