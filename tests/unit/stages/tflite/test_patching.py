"""New tables in a FlatBuffer, read by FlatBuffers' own code."""

from __future__ import annotations

import pytest
from tflite_files import fixture

from stages.tflite import patching, tensor_tables, tflite_model

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")


def test_a_new_table_has_these_fields_and_no_others() -> None:
    data = fixture("toy_ssd")
    place = tensor_tables.root(data).tables(2)[0].references(0)[0]
    changed = patching.with_table(
        data, place, {0: patching.numbers([1, 2, 3]), 3: patching.text("new"), 8: b"\1"}
    )
    tensor, other = (schema.Model.GetRootAs(changed, 0).Subgraphs(0).Tensors(i) for i in (0, 1))
    assert tensor.ShapeAsNumpy().tolist() == [1, 2, 3]
    assert (tensor.Name(), tensor.HasRank(), tensor.Buffer()) == (b"new", True, 0)
    assert tensor.Quantization() is None
    assert other.Name() == schema.Model.GetRootAs(data, 0).Subgraphs(0).Tensors(1).Name()


def test_only_the_reference_changes_in_what_was_there() -> None:
    data = fixture("toy_ssd")
    place = tensor_tables.root(data).tables(2)[0].references(0)[0]
    changed = patching.with_table(data, place, {3: patching.text("new")})
    pairs = zip(data, changed[: len(data)], strict=True)
    differing = {at for at, (one, two) in enumerate(pairs) if one != two}
    assert differing
    assert differing <= set(range(place, place + 4))


def test_tensors_described_anew() -> None:
    data = fixture("toy_ssd")
    graph = tflite_model.read(data).graph
    wanted = {
        number: tflite_model.Tensor(f"t{number}", "int32", (number,), (), 0, None, False)
        for number in (0, 2)
    }
    found = tflite_model.read(tensor_tables.replaced(data, 0, wanted)).graph
    assert [found.tensors[number] for number in wanted] == list(wanted.values())
    assert found.tensors[1] == graph.tensors[1]
