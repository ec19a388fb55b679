"""What full int8 quantisation leaves in float."""

from __future__ import annotations

from dataclasses import replace

from places import FIXTURES

from stages.tflite import float_tail, tflite_model

FULLY_CONNECTED, TOPK_V2 = 9, 48


def read(name: str) -> tflite_model.Model:
    return tflite_model.read((FIXTURES / f"{name}.tflite").read_bytes())


def test_nothing_where_an_operator_decodes() -> None:
    assert float_tail.decoding(read("toy_ssd")) == ([], [])


def test_the_decoding_and_the_last_convolution() -> None:
    model = read("toy_centernet")
    graph = model.graph
    kinds = [operator.builtin for operator in graph.operators]
    last = kinds.index(FULLY_CONNECTED)
    assert kinds.count(FULLY_CONNECTED) == 1
    assert 0 < last < kinds.index(TOPK_V2)
    tail = [graph.tensors[t].name for op in graph.operators[last:] for t in op.outputs]
    assert float_tail.decoding(model) == (tail, ["TOPK_V2"])
    # Every output is made there, the first operator is not.
    assert {graph.tensors[tensor].name for tensor in graph.outputs} <= set(tail)
    assert graph.tensors[graph.operators[0].outputs[0]].name not in tail


def test_earlier_convolutions_are_quantised() -> None:
    """A second convolution in front: only the last one of a path is spared."""
    model = read("toy_centernet")
    first = replace(model.graph.operators[0], builtin=FULLY_CONNECTED)
    changed = replace(
        model, subgraphs=(replace(model.graph, operators=(first, *model.graph.operators[1:])),)
    )
    assert float_tail.decoding(changed) == float_tail.decoding(model)
