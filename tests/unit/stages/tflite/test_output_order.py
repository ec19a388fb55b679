"""Outputs in another order: judged by TFLite's runtime and LiteRT's schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tflite_files import fixture, rewritten

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
