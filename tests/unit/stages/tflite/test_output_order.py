"""Outputs in another order or by name: judged by TFLite's runtime and LiteRT's schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tflite_files import fixture, rewritten

from stages.protocol.failures import StageError
from stages.tflite import output_order, output_roles, tflite_model

TOYS = {"toy_ssd": "ssd", "toy_centernet": "centernet", "toy_ssd_uint8": "ssd"}
TF1 = ["boxes", "classes", "scores", "count"]


def outputs_of(data: bytes, name: str) -> dict[str, output_roles.Output]:
    return output_roles.derive(tflite_model.read(data), TOYS[name])


def in_order(name: str) -> tuple[bytes, bytes]:
    """A toy as it was exported, and the same in TensorFlow 1's order."""
    data = fixture(name)
    return data, output_order.arranged(data, outputs_of(data, name), output_order.ORDERS["tf1"])


def answers(data: bytes, seed: int = 0) -> list[tuple[str, Any]]:
    """Name and values of each output, by position, as TFLite's runtime gives them."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    noise = np.random.default_rng(seed).integers(0, 256, image["shape"])
    values = noise if image["dtype"] == np.uint8 else noise / 127.5 - 1
    interpreter.set_tensor(image["index"], values.astype(image["dtype"]))
    interpreter.invoke()
    return [
        (item["name"], interpreter.get_tensor(item["index"]).tolist())
        for item in interpreter.get_output_details()
    ]


@pytest.mark.parametrize("name", TOYS)
def test_the_runtime_gives_the_same_outputs_in_that_order(name: str) -> None:
    data, result = in_order(name)
    before, after = dict(answers(data)), answers(result)
    by_name = {output.name: role for role, output in outputs_of(data, name).items()}
    assert [by_name[tensor] for tensor, _ in after] == TF1
    assert dict(after) == before
    boxes, classes, scores, count = (values for _, values in after)
    shapes = [np.shape(values) for values in (boxes, classes, scores, count)]
    assert shapes == [(1, 4, 4), (1, 4), (1, 4), (1,)]


@pytest.mark.parametrize("name", TOYS)
def test_nothing_else_changes(name: str) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    data, result = in_order(name)

    def unordered(whole: bytes) -> bytes:
        def sort(model: Any) -> None:
            model.subgraphs[0].outputs = sorted(model.subgraphs[0].outputs)

        return rewritten(whole, sort)

    graph = schema.Model.GetRootAsModel(result, 0).Subgraphs(0)
    roles = {output.tensor: role for role, output in outputs_of(data, name).items()}
    assert [roles[int(tensor)] for tensor in graph.OutputsAsNumpy()] == TF1
    assert unordered(result) == unordered(data)


def test_what_is_in_order_stays_as_it_is() -> None:
    _, result = in_order("toy_ssd")
    again = output_order.arranged(result, outputs_of(result, "toy_ssd"), output_order.ORDERS["tf1"])
    assert again is result


# --- names in the signature --------------------------------------------------------------------

#: As make_toy_detectors.py returns them.
EXPORTED = {"output_0": "count", "output_1": "scores", "output_2": "classes", "output_3": "boxes"}


def by_signature(data: bytes) -> dict[str, Any]:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    run = litert.Interpreter(model_content=data).get_signature_runner()
    (image,) = run.get_input_details().values()
    values = np.random.default_rng(1).integers(0, 256, image["shape"]).astype(image["dtype"])
    return {name: answer.tolist() for name, answer in run(input=values).items()}


@pytest.mark.parametrize("name", TOYS)
def test_the_runtime_finds_each_output_by_its_role(name: str) -> None:
    data = fixture(name)
    result = output_order.named(data, outputs_of(data, name))
    before, after = by_signature(data), by_signature(result)
    assert after == {EXPORTED[key]: values for key, values in before.items()}
    assert answers(result) == answers(data)


def test_in_both_ways() -> None:
    _, ordered = in_order("toy_centernet")
    both = output_order.named(ordered, outputs_of(ordered, "toy_centernet"))
    assert set(by_signature(both)) == set(TF1)
    found = outputs_of(both, "toy_centernet")
    assert {role: output.signature_name for role, output in found.items()} == {
        role: role for role in TF1
    }
    assert [output.position for output in found.values()] == [0, 1, 2, 3]


def test_another_signature_stays() -> None:
    """One that returns less, and a file that has none."""

    def fewer(model: Any) -> None:
        del model.signatureDefs[0].outputs[0]

    def none(model: Any) -> None:
        model.signatureDefs = None

    for change in (fewer, none):
        data = rewritten(fixture("toy_ssd"), change)
        assert output_order.named(data, outputs_of(data, "toy_ssd")) == data


@pytest.mark.parametrize("swap", [("boxes", "scores"), ("scores", "classes")])
def test_names_that_contradict_the_graph_are_refused(swap: tuple[str, str]) -> None:
    data = fixture("toy_centernet")
    outputs = outputs_of(data, "toy_centernet")
    one, other = swap
    wrong = output_order.named(data, {**outputs, one: outputs[other], other: outputs[one]})
    with pytest.raises(StageError, match="its name in the signature makes it"):
        outputs_of(wrong, "toy_centernet")
