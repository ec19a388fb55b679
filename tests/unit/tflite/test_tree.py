"""The schema as data, and the reader that follows it, against LiteRT's own generated code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from places import FIXTURES

from kiln.tflite.schema import ENUMS, OPERATORS, TABLES, UNIONS
from kiln.tflite.tree import Tree
from stages.tflite import flatbuffer

MODELS = sorted(FIXTURES.glob("*.tflite"))
_ENUM_NAMES = {"Activation": "ActivationFunctionType"}
_ENUM_NAMES["WeightsFormat"] = "FullyConnectedOptionsWeightsFormat"


@pytest.fixture(scope="module")
def litert() -> Any:
    """The schema module of LiteRT's Python package."""
    return pytest.importorskip("ai_edge_litert.schema_py_generated")


def constants(cls: type) -> dict[int, str]:
    return {value: name for name, value in vars(cls).items() if isinstance(value, int)}


def snake(name: str) -> str:
    """``StrideW`` as ``stride_w``, comparable with names that differ in underscores only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def test_operators_are_those_of_litert(litert: Any) -> None:
    assert dict(enumerate(OPERATORS)) == constants(litert.BuiltinOperator)
    assert len(OPERATORS) > 200


@pytest.mark.parametrize("name", sorted(UNIONS))
def test_unions_are_those_of_litert(litert: Any, name: str) -> None:
    assert dict(enumerate(UNIONS[name])) == constants(getattr(litert, name))
    assert set(UNIONS[name][1:]) <= set(TABLES)


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_enumerations_are_those_of_litert(litert: Any, name: str) -> None:
    real = constants(getattr(litert, _ENUM_NAMES.get(name, name)))
    assert {i: text.upper() for i, text in enumerate(ENUMS[name])} == {
        i: text.upper() for i, text in real.items()
    }


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_have_the_fields_of_litert(litert: Any, name: str) -> None:
    """Each slot's name and default, and that no slot is missing at the end."""
    table = getattr(litert, name)
    fields = [word.partition(":")[0] for word in TABLES[name].split()]
    added = {
        snake(item.removeprefix(f"{name}Add")): getattr(litert, item)
        for item in dir(litert)
        if item.startswith(f"{name}Add")
    }
    assert set(map(snake, fields)) - {""} == set(added)
    for slot, field in enumerate(fields):
        if field != "-":
            assert slot_of(added[snake(field)]) == slot, field
    assert any(hasattr(table, part) for part in ("Init", "GetRootAs"))


def slot_of(add: Any) -> int:
    """The slot that a generated ``…Add…`` function writes to."""

    class Builder:
        slot = -1

        def __getattr__(self, name: str) -> Any:
            return lambda slot, *rest: setattr(self, "slot", slot)

    builder = Builder()
    add(builder, 0)
    return builder.slot


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_field_is_what_litert_reads(litert: Any, path: Path) -> None:
    data = path.read_bytes()
    tree = Tree(data)
    assert not tree.unknown
    real = litert.ModelT.InitFromObj(litert.Model.GetRootAsModel(data, 0))
    assert same(tree.model, real, "model") > 300


def same(mine: dict[str, Any], real: Any, path: str) -> int:
    """Compare a table of the tree with LiteRT's object; how many values were compared."""
    theirs = {snake(name): value for name, value in vars(real).items()}
    compared = 0
    for name, value in mine.items():
        if name == "options":
            assert type(real).__name__ == f"{value}T", path
            continue
        other = theirs[snake(name)]
        where = f"{path}.{name}"
        if isinstance(value, dict):
            if value:
                compared += same(value, other, where)
            else:
                assert other is None, where
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            assert len(value) == len(other), where
            for index, item in enumerate(value):
                compared += same(item, other[index], f"{where}[{index}]")
        elif isinstance(value, (list, memoryview)):
            assert list(value) == ([] if other is None else list(other)), where
            compared += 1
        elif isinstance(value, str) and isinstance(other, int):  # an enumeration
            names = [names for names in ENUMS.values() if value in names]
            assert any(names_[other] == value for names_ in names), where
            compared += 1
        else:
            other = other.decode() if isinstance(other, bytes) else other
            assert (value or None) == (other or None), where
            compared += 1
    return compared


def test_fields_beyond_the_schema_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from kiln.tflite import tree

    short = {
        **TABLES,
        "Conv2DOptions": "padding:Padding stride_w:i",
        "SubGraph": "tensors:[@Tensor]",
    }
    monkeypatch.setattr(tree, "TABLES", short)
    tree._fields.cache_clear()
    try:
        read = Tree((FIXTURES / "toy_ssd.tflite").read_bytes())
    finally:
        tree._fields.cache_clear()
    assert {"SubGraph slot 1", "SubGraph slot 2", "SubGraph slot 3"} <= read.unknown


def test_a_file_that_repeats_itself_without_end_is_refused() -> None:
    """200 000 graphs that are all the same one: small as a file, without bound when read."""
    count = 200_000
    graph_vtable = b"\x04\0\x04\0"
    # root offset, identifier, vtable of the model (slots 0 to 2), model, vector, graph
    head = b"\x14\0\0\0TFL3" + b"\x0a\0\x08\0\0\0\0\0\x04\0" + b"\0\0"
    model = (12).to_bytes(4, "little") + (4).to_bytes(4, "little")
    start = len(head) + len(model) + 4
    graph = start + 4 * count + 4
    offsets = b"".join((graph - (start + 4 * i)).to_bytes(4, "little") for i in range(count))
    data = head + model + count.to_bytes(4, "little") + offsets + graph_vtable
    data += (4).to_bytes(4, "little")
    assert len(Tree(data).model["subgraphs"]) == count  # each has its four bytes: still honest

    with pytest.raises(flatbuffer.FlatError, match="over and over"):
        Tree(nested(2000))


def nested(count: int) -> bytes:
    """A model with ``count`` references to one graph of ``count`` references to one tensor."""

    def u32(value: int) -> bytes:
        return value.to_bytes(4, "little")

    def vector(start: int, target: int) -> bytes:
        return u32(count) + b"".join(u32(target - (start + 4 + 4 * i)) for i in range(count))

    head = b"\x14\0\0\0TFL3" + b"\x0a\0\x08\0\0\0\0\0\x04\0" + b"\0\0" + u32(12) + u32(4)
    graphs = len(head)
    graph = graphs + 4 + 4 * count + 8  # behind its vtable
    tensors = graph + 8
    tensor = tensors + 4 + 4 * count + 4
    data = head + vector(graphs, graph) + b"\x06\0\x08\0\x04\0\0\0" + u32(8) + u32(4)
    assert len(data) == tensors
    data += vector(tensors, tensor) + b"\x04\0\x04\0" + u32(4)
    return data
