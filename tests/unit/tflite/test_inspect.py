"""``kiln inspect`` on the fixtures, against LiteRT's own reading, and on damaged files."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int16_toy import int16_toy
from places import FIXTURES
from tflite_files import damage, fixture, packed_with_date, rewritten

from kiln.core.errors import KilnError, UnsupportedModelError, UsageError
from kiln.tflite import reading
from kiln.tflite.facts import UNPROVED
from kiln.tflite.inspect import inspect
from kiln.tflite.schema import OPERATORS

MODELS = sorted(FIXTURES.glob("*.tflite"))


def facts(data: bytes) -> dict[str, Any]:
    found = inspect(data).as_json()
    json.dumps(found, allow_nan=False)
    return found


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_inputs_and_outputs_are_what_the_runtime_says(path: Path) -> None:
    runtime = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = runtime.Interpreter(model_path=str(path))
    found = facts(path.read_bytes())
    for kind, details in (
        ("inputs", interpreter.get_input_details()),
        ("outputs", interpreter.get_output_details()),
    ):
        assert [item["name"] for item in found[kind]] == [item["name"] for item in details]
        assert [item["tensor"] for item in found[kind]] == [item["index"] for item in details]
        assert [item["type"] for item in found[kind]] == [i["dtype"].__name__ for i in details]
        for mine, real in zip(found[kind], details, strict=True):
            assert mine["shape"] == list(real["shape"])
            quantised = real["quantization_parameters"]
            assert mine["scale"] == pytest.approx(list(quantised["scales"]))
            assert mine["zero_point"] == list(quantised["zero_points"])
    (signature,) = found["signatures"]
    real = interpreter.get_signature_list()[signature["key"]]
    assert sorted(signature["outputs"]) == sorted(real["outputs"])
    assert list(signature["inputs"]) == real["inputs"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_operators_and_weights_add_up(path: Path) -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    data = path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    found = facts(data)
    real: Counter[tuple[str, int]] = Counter()
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        name = code.customCode.decode() if code.customCode else OPERATORS[code.builtinCode]
        real[name, code.version] += 1
    assert real == {(op["name"], op["version"]): op["count"] for op in found["operators"]}
    buffers = {
        tensor.buffer: model.buffers[tensor.buffer].data
        for tensor in model.subgraphs[0].tensors
        if model.buffers[tensor.buffer].data is not None
    }
    assert found["weights"]["bytes"] == sum(map(len, buffers.values()))
    assert found["weights"]["tensors"] == len(buffers)
    for part in ("by_type", "by_operator"):
        assert sum(i["bytes"] for i in found["weights"][part]) == found["weights"]["bytes"]
        assert sum(i["tensors"] for i in found["weights"][part]) == len(buffers)
    assert sum(found["bytes"].values()) == found["size"] == len(data)
    assert found["sha256"] == hashlib.sha256(data).hexdigest()


def test_an_annotated_detector() -> None:
    found = facts(fixture("toy_ssd_annotated"))
    assert [item["role"] for item in found["inputs"]] == ["image"]
    roles = {item["signature_name"]: item["role"] for item in found["outputs"]}
    # The exporter's order, as make_toy_detectors.py has it: count, scores, classes, boxes.
    assert roles == {
        "output_0": "count",
        "output_1": "scores",
        "output_2": "classes",
        "output_3": "boxes",
    }
    assert found["metadata"]["name"] == "Toy"
    assert found["metadata"]["normalization"]["mean"] == [127.5]
    assert found["metadata"]["normalization"]["std"] == [127.5]
    assert found["metadata"]["box_format"]["type"] == "boundaries"
    assert found["labels"]["lines"] == ["red", "green", "blue"]
    assert not found["labels"]["looks_like_pbtxt"]
    (packed,) = found["packed_files"]
    assert packed["name"] == "labelmap.txt"
    assert packed["date"] == "1980-01-01 00:00:00"
    assert packed["crc32"] == format(zlib.crc32(b"red\ngreen\nblue\n"), "08x")
    assert found["min_runtime_version"] == "1.14.0"
    assert found["converter"] == "2.15.1"
    assert found["warnings"] == []


@pytest.mark.parametrize("name", ["toy_ssd", "toy_centernet"])
def test_roles_without_metadata_come_from_the_graph(name: str) -> None:
    bare, annotated = facts(fixture(name)), facts(fixture(f"{name}_annotated"))
    roles = [item["role"] for item in bare["outputs"]]
    assert sorted(roles) == ["boxes", "classes", "count", "scores"]
    assert roles == [item["role"] for item in annotated["outputs"]]
    assert bare["metadata"] is None and bare["labels"] is None


def test_the_order_of_outputs_is_told() -> None:
    def in_order(model: Any) -> None:
        graph = model.subgraphs[0]
        roles = {item["tensor"]: item["role"] for item in facts(fixture("toy_ssd"))["outputs"]}
        order = ["boxes", "classes", "scores", "count"]
        graph.outputs = sorted(graph.outputs, key=lambda tensor: order.index(roles[int(tensor)]))

    assert facts(fixture("toy_ssd"))["output_order"] == "other"
    ordered = rewritten(fixture("toy_ssd"), in_order)
    assert facts(ordered)["output_order"] == "tf1"
    text = inspect(ordered).text()
    assert "outputs, in the order of TensorFlow 1's files" in text
    assert "order of TensorFlow 1" not in inspect(fixture("toy_ssd")).text()


def test_a_raw_label_map_is_pointed_out() -> None:
    found = facts(fixture("toy_ssd_seed"))
    assert found["labels"]["looks_like_pbtxt"]
    assert any("raw label map" in text for text in found["warnings"])
    assert "warning: the label file toy_labels.pbtxt" in inspect(fixture("toy_ssd_seed")).text()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("toy_ssd", "float32"),
        ("toy_centernet", "float32"),
        ("toy_ssd_uint8", "integer with float islands"),
    ],
)
def test_precision(name: str, kind: str) -> None:
    assert facts(fixture(name))["precision"]["kind"] == kind


def test_the_float_island_of_the_quantised_toy() -> None:
    """Everything is int8 but the operator that decodes boxes."""
    found = facts(fixture("toy_ssd_uint8"))["precision"]
    assert found["float_islands"] == [{"TFLite_Detection_PostProcess": 1}]


def test_activations_in_16_bits_are_told_from_the_weights() -> None:
    found = facts(int16_toy())["precision"]
    assert found["kind"] == "integer with float islands"
    assert found["words"].startswith("integer (int16, int8 weights) with 1 float island")


def to_half(model: Any) -> None:
    """Store the constant of FULLY_CONNECTED as float16 behind a DEQUANTIZE."""
    import copy

    graph = model.subgraphs[0]
    (position,) = [
        i
        for i, op in enumerate(graph.operators)
        if model.operatorCodes[op.opcodeIndex].builtinCode == OPERATORS.index("FULLY_CONNECTED")
    ]
    reader = graph.operators[position]
    weights = graph.tensors[reader.inputs[1]]
    half = copy.copy(weights)
    half.type, half.name = 1, b"half"
    values = bytes(bytearray(model.buffers[weights.buffer].data))
    model.buffers[weights.buffer].data = np.frombuffer(
        np.frombuffer(values, "<f4").astype("<f2").tobytes(), np.uint8
    )
    weights.buffer = 0
    graph.tensors.append(half)
    code = copy.copy(model.operatorCodes[0])
    code.builtinCode = code.deprecatedBuiltinCode = OPERATORS.index("DEQUANTIZE")
    code.version, code.customCode = 3, None
    model.operatorCodes.append(code)
    convert = copy.copy(reader)
    convert.opcodeIndex = len(model.operatorCodes) - 1
    convert.inputs, convert.outputs = [len(graph.tensors) - 1], [reader.inputs[1]]
    convert.builtinOptionsType, convert.builtinOptions = 0, None
    graph.operators.insert(position, convert)


def test_half_weights_belong_to_who_reads_them() -> None:
    found = facts(rewritten(fixture("toy_ssd"), to_half))
    assert found["precision"]["kind"] == "float16 weights"
    readers = {item["name"]: item["bytes"] for item in found["weights"]["by_operator"]}
    assert readers["FULLY_CONNECTED"] == 18
    assert "DEQUANTIZE" not in readers


def change_code(name: bytes | None, builtin: int) -> Any:
    def change(model: Any) -> None:
        code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
        code.customCode = name
        code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)

    return change


@pytest.mark.parametrize(
    ("name", "builtin", "shown", "kind", "words"),
    [
        (b"FlexErf", 32, "FlexErf", "select-tf", "select TF (Flex)"),
        (b"MyOwn", 32, "MyOwn", "custom", "custom"),
        (None, 999, "operator 999", "unknown", "not in the schema"),
        (None, 206, "STABLEHLO_COMPOSITE", "builtin", "STABLEHLO_COMPOSITE"),
    ],
)
def test_operators_of_every_kind(
    name: bytes | None, builtin: int, shown: str, kind: str, words: str
) -> None:
    found = inspect(rewritten(fixture("toy_ssd"), change_code(name, builtin)))
    assert (shown, kind) in {(op["name"], op["kind"]) for op in found.as_json()["operators"]}
    assert words in found.text()


def test_swapped_roles_in_the_metadata_are_pointed_out() -> None:
    data = fixture("toy_ssd_annotated")

    def turn(model: Any) -> None:
        model.subgraphs[0].outputs = model.subgraphs[0].outputs[::-1]

    found = facts(rewritten(data, turn))
    assert any("called the" in text and "makes it the" in text for text in found["warnings"])


def test_what_is_packed_wrongly_is_pointed_out() -> None:
    data = fixture("toy_ssd_annotated")
    place = data.index(b"red\n", data.index(b"PK\x03\x04"))
    damaged = data[:place] + b"Red\n" + data[place + 4 :]
    assert any("labelmap.txt" in text for text in facts(damaged)["warnings"])
    without = rewritten(data)
    (warning,) = facts(without)["warnings"]
    assert warning == "labelmap.txt is declared in the metadata, but not packed"
    assert (
        facts(packed_with_date(data, 2, 0x42))["packed_files"][0]["date"] != "1980-01-01 00:00:00"
    )


def test_metadata_that_repeats_itself_without_end_is_refused() -> None:
    """60 000 outputs that are all the same one, each with the same 60 000 files."""

    def change(model: Any) -> None:
        count = 60_000

        def u32(value: int) -> bytes:
            return value.to_bytes(4, "little")

        def vector(start: int, target: int) -> bytes:
            return u32(count) + b"".join(u32(target - start - 4 - 4 * i) for i in range(count))

        def table(slot: int) -> bytes:
            """One field, right behind the table: an offset of four bytes."""
            vtable = (
                (4 + 2 * (slot + 1)).to_bytes(2, "little") + b"\x08\0" + b"\0\0" * slot + b"\4\0"
            )
            vtable += b"\0" * (-len(vtable) % 4)
            size = len(vtable)
            return vtable + u32(size) + u32(4)

        metadata = table(3)  # the model's: subgraph_metadata
        root = 8 + len(metadata) - 8
        data = u32(root) + b"M001" + metadata
        graph = table(3)  # output_tensor_metadata
        data += u32(1) + u32(4 + len(graph) - 8) + graph
        tensor = table(6)  # associated_files
        data += vector(len(data), len(data) + 4 + 4 * count + len(tensor) - 8) + tensor
        data += vector(len(data), len(data) + 4 + 4 * count + 4) + b"\4\0\4\0" + u32(4)
        (entry,) = [item for item in model.metadata if item.name == b"TFLITE_METADATA"]
        model.buffers[entry.buffer].data = np.frombuffer(data, np.uint8)

    found = facts(rewritten(fixture("toy_ssd_annotated"), change))
    assert found["metadata"] is None
    assert any("over and over" in text for text in found["warnings"])


def test_names_cannot_steer_a_terminal() -> None:
    def rename(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].name = b"in\x1b[2Jput\n\xff" + b"x" * 300

    text = inspect(rewritten(fixture("toy_ssd"), rename)).text()
    assert "\x1b" not in text and "in\\x1b[2Jput\\n" in text
    assert max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04" + b"\0" * 30, "a zip archive"),
        (b"\x1f\x8b" + b"\0" * 30, "gzip data"),
        (b"hello, world", "identifier TFL3 is missing"),
        (b"\x1c\0\0\0TFL3", "cannot be read"),
        (b"\xff\xff\xff\xffTFL3" + b"\0" * 100, "cannot be read"),
    ],
)
def test_something_else(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(UnsupportedModelError, match=words) as caught:
            inspect(source)
        assert caught.value.remedy
        assert caught.value.message.startswith(f"{path if source is path else 'model'} is ")


def test_no_file_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.tflite", Path("/dev/null"), tmp_path / "a\0b"):
        with pytest.raises(UsageError):
            inspect(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    for head, words in ((b"\0" * 8, "not a TFLite"), (b"\x1c\0\0\0TFL3", "more than")):
        path = tmp_path / "huge.tflite"
        with path.open("wb") as file:
            file.write(head)
            file.truncate(2**40)  # sparse
        with pytest.raises(UnsupportedModelError, match=words):
            inspect(path)


def test_every_truncation_is_read_or_refused() -> None:
    data = fixture("toy_ssd_uint8_annotated")
    refused = 0
    for size in range(len(data)):
        try:
            facts(data[:size])
        except UnsupportedModelError:
            refused += 1
    assert refused > reading.load(data).packing.start * 0.9


@settings(max_examples=150)
@given(st.data())
def test_damage_ends_in_a_message(data: st.DataObject) -> None:
    """Whatever bytes are changed, and wherever the file is cut: a result or a KilnError."""
    whole = data.draw(st.sampled_from(MODELS)).read_bytes()
    damaged = damage(whole, data)
    try:
        found = inspect(damaged)
    except KilnError as error:
        assert error.message and error.remedy
        return
    json.dumps(found.as_json(), allow_nan=False)
    assert found.text().isprintable() or "\n" in found.text()


def test_what_was_annotated_without_proof_says_so() -> None:
    plain = b"Finds objects in an image: where each is, what it is, and how sure that is."
    data = fixture("toy_ssd_annotated")
    unproved = f" {UNPROVED}".encode()  # as long, so that nothing moves
    assert (data.count(plain), len(unproved)) == (1, len(plain))
    assert facts(data)["metadata"]["proof"] is None
    changed = data.replace(plain, unproved)
    assert facts(changed)["metadata"]["proof"] == "none"
    assert "proof               none" in inspect(changed).text()
