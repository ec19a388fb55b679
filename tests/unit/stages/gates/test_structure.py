"""Gate ``structure`` on toys; on genuine artefacts it is in the integration tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import depthwise_toy
import pytest
from annotate_cases import DECODING
from int16_toy import int16_toy
from tflite_files import fixture, rewritten

from stages.gates import structure
from stages.gates.result import Gate
from stages.tflite import float_depthwise, packed_files

EXPECTED = structure.Expected("float32", "ssd", 8, 8, postprocess="none")


def examined(data: bytes, expected: structure.Expected = EXPECTED) -> Gate:
    return structure.examine(data, expected)


def repacked(**changes: bytes) -> bytes:
    model, files = packed_files.split(fixture("toy_raw_annotated"))
    return packed_files.pack(model, {**files, **changes})


def test_a_sound_one() -> None:
    gate = examined(fixture("toy_raw_annotated"))
    assert not gate.problems
    assert (gate.figures["anchors"], gate.figures["classes"]) == (4, 3)
    assert gate.figures["outputs"] == {"raw_boxes": 0, "raw_scores": 1}


@pytest.mark.parametrize("postprocess", ["none", "tflite"])
def test_the_other_kind_of_outputs(postprocess: str) -> None:
    name = {"none": "toy_ssd_annotated", "tflite": "toy_raw_annotated"}[postprocess]
    gate = examined(fixture(name), replace(EXPECTED, postprocess=postprocess))
    assert "outputs" in {problem.code for problem in gate.problems}


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (repacked(**{"anchors.bin": b"\0" * 64}), "decoding", "does not hold the anchors"),
        (repacked(**{"decoding.json": b"{}"}), "decoding", "has not the fields"),
        (
            repacked(**replace(DECODING, classes=4).as_files()),
            "outputs",
            "[1, 4, 3], not [1, 4, 4]",
        ),
        (repacked(**{"more.txt": b"dog\n"}), "label-file", "more.txt"),
    ],
)
def test_what_is_packed_must_fit(data: bytes, code: str, words: str) -> None:
    (problem,) = examined(data).problems
    assert problem.code == code
    assert words in problem.seen


INT16 = structure.Expected("int16x8", "ssd", 8, 8)


def test_activations_in_16_bits() -> None:
    gate = examined(int16_toy(), INT16)
    # The toy has hardly any weights; theirs are not what is looked at here.
    assert {problem.code for problem in gate.problems} == {"weights-type"}
    assert gate.figures["computing"] == {"int16": 1}


@pytest.mark.parametrize(
    ("variant", "name", "seen"),
    [
        ("int16x8", "toy_ssd_annotated", "1 in float32"),
        ("int16x8", "toy_ssd_uint8_annotated", "1 in int8"),
        ("int8", "toy_ssd_annotated", "1 in float32"),
        ("int8", "", "1 in int16"),
    ],
)
def test_what_computes_in_another_type_is_another_variant(
    variant: str, name: str, seen: str
) -> None:
    gate = examined(fixture(name) if name else int16_toy(), replace(INT16, variant=variant))
    (problem,) = (item for item in gate.problems if item.code == "activations-type")
    assert problem.seen == seen


def test_outputs_declared_the_other_way_round() -> None:
    def exchange(model: object) -> None:
        graph = model.subgraphs[0]  # type: ignore[attr-defined]
        graph.outputs = [*graph.outputs][::-1]

    data = fixture("toy_raw_annotated")
    turned = packed_files.pack(rewritten(data, exchange), packed_files.split(data)[1])
    (problem,) = examined(turned).problems
    assert problem.code == "roles-swapped"


def test_int8_outputs_where_the_input_is() -> None:
    gate = examined(
        fixture("toy_raw_annotated"), replace(EXPECTED, variant="int8", input_type="int8")
    )
    wanted = {problem.code: problem.expected for problem in gate.problems}
    assert wanted["outputs"] == "two outputs, int8: raw boxes and raw scores"


# --- shapes of the outputs ---------------------------------------------------------------------

SSD = structure.Expected("float32", "ssd", 8, 8)


def with_shape(*shape: int, signature: tuple[int, ...] = ()) -> bytes:
    """The annotated toy with another shape of its boxes."""

    def change(model: Any) -> None:
        tensor = model.subgraphs[0].tensors[model.subgraphs[0].outputs[1]]
        tensor.shape, tensor.shapeSignature = list(shape), list(signature)

    data = fixture("toy_ssd_annotated")
    return packed_files.pack(rewritten(data, change), packed_files.split(data)[1])


@pytest.mark.parametrize("name", ["toy_ssd_annotated", "toy_centernet_annotated"])
def test_outputs_that_state_their_shapes(name: str) -> None:
    kind = "centernet" if "centernet" in name else "ssd"
    assert not examined(fixture(name), replace(SSD, architecture=kind)).problems


@pytest.mark.parametrize(
    "data",
    [
        with_shape(),
        with_shape(1, 5, 4),
        with_shape(1, 16),
        with_shape(1, 4, 4, signature=(1, -1, 4)),
    ],
)
def test_outputs_without_a_static_shape(data: bytes) -> None:
    (problem,) = examined(data, SSD).problems
    assert problem.code == "output-shapes"
    assert "boxes [1, N, 4]" in problem.expected
    assert "scores [1, 4]" in problem.seen


def test_a_plain_conversion_need_not_state_them() -> None:
    assert not examined(with_shape(), replace(SSD, plain=True)).problems


def test_shapes_that_the_runtime_does_not_allocate() -> None:
    for shapes, good in [
        ([(1, 4), (1, 4, 4), (1,), (1, 4)], True),
        ([(1, 4, 4), (1, 4), (1,), (1, 4)], False),
        ([(1, 4), (1, 4, 4), (1,)], False),
    ]:
        gate = Gate("structure")
        structure.allocated(gate, fixture("toy_ssd_annotated"), shapes)
        assert [problem.code for problem in gate.problems] == ([] if good else ["output-shapes"])


# --- weights of depthwise convolutions ---------------------------------------------------------

DYNAMIC, FLOATS = depthwise_toy.model(True), depthwise_toy.model(False)


def codes(data: bytes, **expected: Any) -> set[str]:
    kind = replace(SSD, variant="dynamic", **expected)
    return {problem.code for problem in examined(data, kind).problems}


def test_dynamic_has_float_depthwise_weights_and_others_in_int8() -> None:
    good = float_depthwise.restored(DYNAMIC, FLOATS)
    assert not codes(good) & {"depthwise-weights", "weights-type"}
    assert examined(good, replace(SSD, variant="dynamic")).figures["depthwise_bytes"] == {
        "float32": 108
    }
    assert "depthwise-weights" in codes(DYNAMIC)
    assert "depthwise-weights" not in codes(DYNAMIC, plain=True)


def test_dynamic_in_float_is_found_whatever_its_depthwise_weights() -> None:
    assert "weights-type" in codes(FLOATS)
    assert "depthwise-weights" not in codes(FLOATS)
