"""The schema as data, and the reader that follows it, against LiteRT's own generated code.

The schema is generated from the methods of LiteRT's module that *read* a file. Here it is compared
with the functions of that module that *write* one, with what LiteRT reads from real files, and with
values that are known from ``schema.fbs``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from places import FIXTURES

from kiln.tflite.schema import ENUMS, OPERATORS, TABLES, UNIONS
from kiln.tflite.tree import Tree
from schemas import generate_tflite as generator
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


def test_the_schema_is_the_generated_one(litert: Any) -> None:
    """`make schema` writes it, after an update of ai-edge-litert."""
    assert generator.OUTPUT.read_text("utf-8") == generator.generate(*generator.installed())


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("class Model: pass", "No table has the fields"),
        ("class Other: pass", "There is no Model"),
        (
            "class Model:\n def Name(self):\n  o = self._tab.Offset(4)\n  return self._tab.New(o)",
            "Model.Name is of an unknown type",
        ),
    ],
)
def test_a_module_that_is_made_otherwise_is_refused(module: str, why: str) -> None:
    with pytest.raises(generator.SchemaError, match=why):
        generator.generate(module, "0")


def test_values_known_from_the_text_of_the_schema() -> None:
    """Typed from ``schema.fbs``; none of these can ever change: files depend on them."""
    known = {0: "ADD", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE", 14: "LOGISTIC"}
    known |= {22: "RESHAPE", 25: "SOFTMAX", 32: "CUSTOM", 114: "QUANTIZE", 117: "HARD_SWISH"}
    known |= {126: "BATCH_MATMUL", 150: "GELU", 206: "STABLEHLO_COMPOSITE", 209: "STABLEHLO_CASE"}
    assert {code: OPERATORS[code] for code in known} == known
    options = UNIONS["BuiltinOptions"]
    assert options[1] == "Conv2DOptions"
    assert options[101] == "BatchMatMulOptions"
    assert ENUMS["TensorType"][:10] == (
        *("float32", "float16", "int32", "uint8", "int64"),
        *("string", "bool", "int16", "complex64", "int8"),
    )
    assert TABLES["BatchMatMulOptions"] == "adj_x:? adj_y:? asymmetric_quantize_inputs:?"
    assert TABLES["SoftmaxOptions"] == "beta:f"
    assert TABLES["ResizeBilinearOptions"] == "- - align_corners:? half_pixel_centers:?"
    assert "time_major:?=True" in TABLES["BidirectionalSequenceLSTMOptions"].split()
    assert "dilation_w_factor:i=1" in TABLES["Conv2DOptions"].split()


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
    """Each slot's name, type and default, and that no slot is missing at the end."""
    table = getattr(litert, name)
    words = [word.partition(":") for word in TABLES[name].split()]
    fields = [word[0] for word in words]
    added = {
        snake(item.removeprefix(f"{name}Add")): getattr(litert, item)
        for item in dir(litert)
        if item.startswith(f"{name}Add")
    }
    assert set(map(snake, fields)) - {""} == set(added)
    for slot, (field, _, about) in enumerate(words):
        if field != "-":
            kind, _, default = about.partition("=")
            written = written_by(added[snake(field)])
            shown = {"True": "1", "": "0"}.get(default, default)
            assert (written.slot, written.default) == (slot, shown), field
            assert written.kind == ("b" if kind in ENUMS else kind if len(kind) == 1 else "s")
    assert any(hasattr(table, part) for part in ("Init", "GetRootAs"))


#: Codes of :mod:`struct` for what a builder writes; "s" for whatever lies elsewhere.
CODES = {"Bool": "?", "Int8": "b", "Uint8": "B", "Int32": "i", "Uint32": "I", "Int64": "q"}
CODES |= {"Uint64": "Q", "Float32": "f", "UOffsetTRelative": "s"}


class Written:
    """Stands in for a builder, and remembers what is written: slot, type, default."""

    slot, kind, default = -1, "", ""

    def __getattr__(self, name: str) -> Any:
        def write(slot: int, value: int, default: object) -> None:
            self.slot = slot
            self.kind = CODES[name.removeprefix("Prepend").removesuffix("Slot")]
            self.default = str(default or 0)

        return write


def written_by(add: Any) -> Written:
    """What a generated ``…Add…`` function writes."""
    written = Written()
    add(written, 0)
    return written


def test_an_operator_that_was_once_taken_for_damaged(litert: Any) -> None:
    """``adj_y`` is a truth value; the table that was copied by hand had a vector there."""
    flatbuffers = pytest.importorskip("flatbuffers")
    operator = litert.OperatorT()
    operator.builtinOptionsType = litert.BuiltinOptions.BatchMatMulOptions
    operator.builtinOptions = litert.BatchMatMulOptionsT()
    operator.builtinOptions.adjY = True
    graph = litert.SubGraphT()
    graph.operators = [operator]
    model = litert.ModelT()
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    read = Tree(bytes(builder.Output())).model["subgraphs"][0]["operators"][0]["builtin_options"]
    assert (read["adj_x"], read["adj_y"]) == (False, True)


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
