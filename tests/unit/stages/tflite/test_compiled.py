"""What a compiler dropped is put back, and what it may not change is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiled_toy import compiled_toy, quantised_at_once
from hypothesis import given
from hypothesis import strategies as st
from tflite_files import damage, fixture

from stages.tflite import compiled, metadata_entry, packed_files, tflite_meta, tflite_model

NAMES = ("toy_ssd_uint8_annotated", "toy_centernet_annotated", "toy_raw_annotated")
ORIGINAL = fixture("toy_ssd_uint8_annotated")


@pytest.mark.parametrize("name", NAMES)
def test_packed_files_come_back(name: str) -> None:
    original = fixture(name)
    written = compiled_toy(original)
    found = compiled.finished(original, written)
    assert found.data.startswith(written)
    assert packed_files.split(found.data)[1] == packed_files.split(original)[1]
    assert found.restored == tuple(sorted(packed_files.split(original)[1]))
    assert found.calls == {"ethos-u": 1}
    before = tflite_model.read(original).graph.operators
    assert sum(found.left.values()) == len(before) - 1


@pytest.mark.parametrize("name", NAMES)
def test_metadata_come_back_to_a_file_without_any(name: str) -> None:
    original = fixture(name)
    written = compiled_toy(original, "edgetpu-custom-op", keeps_metadata=False)
    assert tflite_model.read(written).metadata == {}
    found = compiled.finished(original, written)
    assert found.restored[0] == "metadata"
    assert written in found.data  # as a whole: nothing that the compiler laid out has moved apart
    assert found.data.index(written) % 64 == 0
    after = tflite_model.read(found.data)
    metadata = tflite_meta.read(after)
    assert metadata == tflite_meta.read(tflite_model.read(original))
    assert metadata is not None
    assert tflite_meta.labels(found.data, metadata) == ["red", "green", "blue"]


def test_other_readers_find_the_added_metadata() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    bare, _ = packed_files.split(ORIGINAL)
    before = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bare, 0))
    longer = metadata_entry.added(bare, "more", b"content" * 9)
    after = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(longer, 0))
    assert [entry.name for entry in after.metadata] == [
        *(entry.name for entry in before.metadata),
        b"more",
    ]
    assert bytes(after.buffers[after.metadata[-1].buffer].data) == b"content" * 9
    assert (after.version, after.description) == (before.version, before.description)
    assert [bytes(b.data) if b.data is not None else None for b in after.buffers[:-1]] == [
        bytes(b.data) if b.data is not None else None for b in before.buffers
    ]
    assert after.signatureDefs[0].signatureKey == before.signatureDefs[0].signatureKey
    with pytest.raises(ValueError, match="already"):
        metadata_entry.added(longer, "more", b"")


def test_a_model_that_runs_still_runs_with_an_entry_more() -> None:
    runtime = pytest.importorskip("ai_edge_litert.interpreter")
    bare, _ = packed_files.split(ORIGINAL)
    one, other = (
        runtime.Interpreter(model_content=data)
        for data in (bare, metadata_entry.added(bare, "more", b"x" * 33))
    )
    answers = []
    for interpreter in (one, other):
        interpreter.allocate_tensors()
        (image,) = interpreter.get_input_details()
        # An input that nobody sets is whatever its memory held before.
        values = np.random.default_rng(0).integers(0, 256, image["shape"], image["dtype"])
        interpreter.set_tensor(image["index"], values)
        interpreter.invoke()
        outputs = interpreter.get_output_details()
        answers.append([interpreter.get_tensor(item["index"]).tolist() for item in outputs])
    assert answers[0] == answers[1]


def reverse_outputs(model: Any) -> None:
    model.subgraphs[0].outputs = list(reversed(model.subgraphs[0].outputs))


def drop_output(model: Any) -> None:
    model.subgraphs[0].outputs = list(model.subgraphs[0].outputs)[:-1]


def of_the_input(name: str, value: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        setattr(graph.tensors[graph.inputs[0]], name, value)

    return change


def rescale(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].quantization.scale = [0.5]


def rename_signature(model: Any) -> None:
    model.signatureDefs[0].outputs[0].name = b"elsewhere"


def change_metadata(model: Any) -> None:
    (entry,) = (item for item in model.metadata if item.name == b"TFLITE_METADATA")
    model.buffers[entry.buffer].data = [*model.buffers[entry.buffer].data[:-1], 7]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (reverse_outputs, "output 0 has the name"),
        (drop_output, "it has 3 outputs, not 4"),
        (of_the_input("shape", [1, 9, 9, 3]), "input 0 has the shape"),
        (of_the_input("type", 9), "input 0 has the type 'int8'"),
        (of_the_input("name", b"other"), "input 0 has the name 'other'"),
        (rescale, "input 0 has the quantisation scale"),
        (rename_signature, "its signatures name other"),
        (change_metadata, "it has other metadata"),
    ],
)
def test_what_clients_see_may_not_change(change: Callable[[Any], None], words: str) -> None:
    written = compiled_toy(ORIGINAL, change=change)
    with pytest.raises(compiled.UnlikeError, match=words):
        compiled.finished(ORIGINAL, written)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"", "not a TFLite model"),
        (b"\x7fELF" + bytes(400), "not a TFLite model"),
        (ORIGINAL, "nothing in it is compiled"),
        (ORIGINAL[:800], "truncated"),
        (packed_files.pack(packed_files.split(ORIGINAL)[0], {"labelmap.txt": b"?"}), "packed"),
    ],
)
def test_garbage_is_refused(written: bytes, words: str) -> None:
    with pytest.raises(compiled.UnlikeError, match=words):
        compiled.finished(ORIGINAL, written)


@given(st.data(), st.booleans())
def test_hostile_output_ends_in_a_result_or_one_error(data: st.DataObject, keeps: bool) -> None:
    written = damage(compiled_toy(ORIGINAL, keeps_metadata=keeps), data)
    try:
        found = compiled.finished(ORIGINAL, written)
    except compiled.UnlikeError:
        return
    assert packed_files.split(found.data)[1] == packed_files.split(ORIGINAL)[1]


def test_a_float_input_counts_unless_it_is_quantised_at_once() -> None:
    """Files with 16-bit activations take floats, and quantise them before anything else."""
    floats = tflite_model.read(fixture("toy_ssd_annotated")).graph
    assert compiled.float_inputs(floats) == ["float32"]
    assert compiled.float_inputs(tflite_model.read(ORIGINAL).graph) == []
    begins = tflite_model.read(quantised_at_once(ORIGINAL)).graph
    assert begins.tensors[begins.inputs[0]].type == "float32"
    assert compiled.float_inputs(begins) == []
    first, *others, last = begins.operators
    also = replace(last, inputs=(begins.inputs[0], *last.inputs[1:]))
    assert compiled.float_inputs(replace(begins, operators=(first, *others, also))) == ["float32"]
    assert compiled.float_inputs(replace(begins, operators=(*others, last))) == ["float32"]
