"""The FlatBuffer reader and both schemas, above all on files that are not what they claim."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import FIXTURES

from stages.tflite import flatbuffer, tflite_meta, tflite_model

ANNOTATED = (FIXTURES / "toy_ssd_annotated.tflite").read_bytes()


def read_everything(data: bytes) -> None:
    model = tflite_model.read(data)
    for buffer in model.buffers:
        bytes(buffer)
    metadata = tflite_meta.read(model)
    if metadata is not None:
        tflite_meta.labels(data, metadata)


def test_reads_a_model() -> None:
    model = tflite_model.read((FIXTURES / "toy_ssd.tflite").read_bytes())
    graph = model.graph
    assert model.version == 3
    image = graph.tensors[graph.inputs[0]]
    assert (image.type, image.shape, image.quantization) == ("float32", (1, 8, 8, 3), None)
    assert graph.operators[-1].custom == tflite_model.DETECTION_POSTPROCESS
    assert graph.operators[-1].options
    assert len(graph.outputs) == 4
    (signature,) = model.signatures
    assert sorted(signature.outputs) == ["output_0", "output_1", "output_2", "output_3"]
    assert set(signature.outputs.values()) == set(graph.outputs)
    assert bytes(model.metadata["min_runtime_version"]).rstrip(b"\0").count(b".") == 2
    assert tflite_meta.read(model) is None
    assert tflite_model.packed_files((FIXTURES / "toy_ssd.tflite").read_bytes()) == {}


def test_reads_quantization() -> None:
    graph = tflite_model.read((FIXTURES / "toy_ssd_uint8.tflite").read_bytes()).graph
    image = graph.tensors[graph.inputs[0]]
    assert image.type == "uint8"
    assert image.quantization is not None
    assert image.quantization.scale[0] == pytest.approx(2 / 255, rel=1e-3)
    assert image.quantization.zero_point[0] in (127, 128)


def test_agrees_with_the_runtime() -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        model_content=ANNOTATED
    )
    graph = tflite_model.read(ANNOTATED).graph
    details = interpreter.get_output_details()
    assert [item["index"] for item in details] == list(graph.outputs)
    assert [item["name"] for item in details] == [graph.tensors[i].name for i in graph.outputs]
    signature = interpreter.get_signature_list()["serving_default"]
    assert sorted(signature["outputs"]) == ["output_0", "output_1", "output_2", "output_3"]


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0" * 8, b"\x1c\0\0\0TFL2" + b"\0" * 60])
def test_something_else(data: bytes) -> None:
    with pytest.raises(flatbuffer.FlatError, match="not a TFLite model"):
        tflite_model.read(data)


def test_every_truncation_is_an_error() -> None:
    whole = (FIXTURES / "toy_ssd.tflite").read_bytes()
    refused = 0
    for size in range(len(whole)):
        try:
            read_everything(whole[:size])
        except flatbuffer.FlatError:
            refused += 1
    # The last bytes of a FlatBuffer may be padding that nobody refers to.
    assert refused >= len(whole) - 16


def test_damage_is_an_error_or_harmless() -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(3000):
        data = bytearray(ANNOTATED)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.choice((0, 0x7F, 0x80, 0xFF))
        try:
            read_everything(bytes(data))
        except ValueError:
            refused += 1
    assert refused > 300


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_behind_an_identifier(data: bytes) -> None:
    for identifier, reader in ((b"TFL3", tflite_model.read), (b"M001", tflite_meta.parse)):
        for start in (b"\x08\0\0\0", data[:4].ljust(4, b"\0")):
            with pytest.raises(flatbuffer.FlatError):
                reader(start + identifier + data)


def test_a_huge_vector_costs_nothing() -> None:
    # root table at 16: vtable at 8 (size 6, table size 8, field 0 at 4), field 0 -> vector at 24.
    data = bytearray(64)
    data[0:8] = (16).to_bytes(4, "little") + b"TFL3"
    data[8:14] = b"\x06\0\x08\0\x04\0"
    data[16:20] = (8).to_bytes(4, "little")
    data[20:24] = (4).to_bytes(4, "little")
    data[24:28] = b"\xff\xff\xff\xff"
    table = flatbuffer.root(data, b"TFL3", "test")
    with pytest.raises(flatbuffer.FlatError, match="a vector at 24"):
        table.raw(0)
    with pytest.raises(flatbuffer.FlatError, match="a vector at 24"):
        table.tables(0)
    assert table.number(1, "I", 42) == 42
    assert table.table(5) is None
    assert table.text(3, "none") == "none"


def test_metadata_of_a_model_without_its_label_file() -> None:
    model = tflite_model.read(ANNOTATED)
    metadata = tflite_meta.read(model)
    assert metadata is not None
    assert tflite_meta.labels(ANNOTATED, metadata) == ["red", "green", "blue"]
    start = ANNOTATED.index(b"PK\x03\x04")
    with pytest.raises(ValueError, match="declared but not in the model"):
        tflite_meta.labels(ANNOTATED[:start], metadata)
    with pytest.raises(ValueError, match="no single output 'nothing'"):
        metadata.output("nothing")
