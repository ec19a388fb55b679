"""What the adopt stage finds out without the checkpoint: outputs, and which normalisation fits.

The rest runs where TensorFlow is (``tests/integration/test_centernet.py``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pictures import BLUE, GREEN, GREY, RED, picture
from places import FIXTURES

from stages.detect import detector, matching
from stages.files import pixels
from stages.protocol.failures import StageError
from stages.steps import adopt
from stages.tflite import output_roles, tflite_model

pytest.importorskip("ai_edge_litert")

PICTURES = [picture(RED, GREY, BLUE, GREEN), picture(GREY, GREEN, GREEN, GREY)]
RIGHT = adopt.Normalization((127.5,) * 3, (127.5,) * 3)  # what the toys want
NEAR = adopt.Normalization((127.0,) * 3, (128.0,) * 3)
RAW = adopt.Normalization((0.0,) * 3, (1.0,) * 3)
UNIT = adopt.Normalization((0.0,) * 3, (255.0,) * 3)
IMAGENET = adopt.Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def read(name: str) -> tflite_model.Model:
    return tflite_model.read((FIXTURES / f"{name}.tflite").read_bytes())


def answers(name: str, *norms: adopt.Normalization) -> list[list[list[Any]]]:
    """Of each normalisation, of each picture: the outputs."""
    interpreter, _ = detector.make_interpreter((FIXTURES / f"{name}.tflite").read_bytes())
    images = [pixels.resize_bilinear(image, 8, 8) for image in PICTURES]
    return [[adopt._answer(interpreter, image, norm) for image in images] for norm in norms]


def tensor(**changes: Any) -> tflite_model.Tensor:
    source = read("toy_ssd")
    return replace(source.graph.tensors[source.graph.inputs[0]], **changes)


@pytest.mark.parametrize(
    ("name", "architecture"), [("toy_ssd", "ssd"), ("toy_centernet", "center_net")]
)
def test_outputs_are_what_the_graph_says(name: str, architecture: str) -> None:
    model = read(name)
    found = adopt.find_roles(model, architecture, answers(name, RIGHT, RAW, UNIT), 3)
    expected = output_roles.derive(model, "ssd" if architecture == "ssd" else "centernet")
    assert found == expected
    chosen = {role: adopt._name(model, output) for role, output in found.items()}
    assert output_roles.derive(model, "centernet", chosen) == expected  # annotate takes these names


def without_casts(model: tflite_model.Model) -> tflite_model.Model:
    """The same without signature and casts, as an exporter unknown here may write it."""
    operators = tuple(
        replace(operator, builtin=0) if operator.builtin == tflite_model.OP_CAST else operator
        for operator in model.graph.operators
    )
    return replace(model, signatures=(), subgraphs=(replace(model.graph, operators=operators),))


def test_outputs_by_what_they_hold() -> None:
    model = read("toy_centernet")
    bare = without_casts(model)
    with pytest.raises(StageError, match="cannot be told apart"):
        output_roles.derive(bare, "centernet")
    found = adopt.find_roles(bare, "center_net", answers("toy_centernet", RIGHT, UNIT), 3)
    expected = output_roles.derive(model, "centernet")
    assert {role: output.tensor for role, output in found.items()} == {
        role: output.tensor for role, output in expected.items()
    }
    assert list(found) == list(output_roles.ROLES)


def test_an_order_that_the_graph_denies_is_refused() -> None:
    model = read("toy_centernet")
    given = answers("toy_centernet", RIGHT)
    names = {
        output.position: role for role, output in output_roles.derive(model, "centernet").items()
    }
    swap = {output_roles.SCORES: output_roles.CLASSES, output_roles.CLASSES: output_roles.SCORES}
    order = {role: position for position, role in names.items()}
    swapped = [
        [[answer[order[swap.get(names[i], names[i])]] for i in range(4)] for answer in run_]
        for run_ in given
    ]
    with pytest.raises(StageError, match="numbers in them say otherwise"):
        adopt.find_roles(model, "center_net", swapped, 3)


def test_numbers_that_are_neither_scores_nor_classes() -> None:
    bare = without_casts(read("toy_centernet"))
    given = answers("toy_centernet", RIGHT)
    broken = [[[values * np.float32("nan") for values in answer] for answer in given[0]]]
    with pytest.raises(StageError, match="do not tell scores and classes apart"):
        adopt.find_roles(bare, "center_net", broken, 3)
    # More classes seen than the model has: another model's file.
    with pytest.raises(StageError, match="do not tell scores and classes apart"):
        adopt.find_roles(bare, "center_net", given, 2)


def test_rows_behind_the_count_tell_nothing() -> None:
    model = read("toy_centernet")
    roles = {role: item.position for role, item in output_roles.derive(model, "centernet").items()}
    given = answers("toy_centernet", RIGHT)
    for answer in given[0]:
        answer[roles[output_roles.COUNT]][:] = 1
        for role in (output_roles.BOXES, output_roles.SCORES, output_roles.CLASSES):
            answer[roles[role]][0, 1:] = np.nan
    found = adopt.find_roles(model, "center_net", given, 3)
    assert {role: output.position for role, output in found.items()} == roles
    assert [len(adopt._detections(answer, found)) for answer in given[0]] == [1, 1]
    given[0][0][roles[output_roles.COUNT]][:] = np.nan
    assert adopt._detections(given[0][0], found) == []


def test_outputs_of_another_shape() -> None:
    model = read("toy_centernet")
    given = [[[np.zeros((1, 8, 8, 3), np.float32)] * 4]]
    with pytest.raises(StageError, match="boxes \\[1, N, 4\\]"):
        adopt.find_roles(model, "center_net", given, 3)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(StageError, match="does not fit the architecture"):
        adopt.find_roles(read("toy_ssd"), "center_net", answers("toy_ssd", RIGHT), 3)


def test_candidates_of_a_float_input() -> None:
    known = adopt.candidates(tensor(), None)
    assert {RIGHT, NEAR, RAW, UNIT, IMAGENET} == set(known)
    assert adopt.candidates(tensor(), RIGHT) == known  # not twice
    odd = adopt.Normalization((100.0, 110.0, 120.0), (1.0,) * 3)
    assert adopt.candidates(tensor(), odd) == [*known, odd]


def test_a_uint8_input_says_it_itself() -> None:
    (norm,) = adopt.candidates(read_input("toy_ssd_uint8"), None)
    # Rounded to a whole zero point: half a pixel value either way.
    assert norm.difference(RIGHT) <= 0.51
    (raw,) = adopt.candidates(tensor(type="uint8", quantization=None), RIGHT)
    assert raw == RAW
    several = tflite_model.Quantization((0.1, 0.2), (0, 0), 3)
    with pytest.raises(StageError, match="no metadata can describe"):
        adopt.candidates(tensor(type="uint8", quantization=several), None)


def read_input(name: str) -> tflite_model.Tensor:
    model = read(name)
    return model.graph.tensors[model.graph.inputs[0]]


@pytest.mark.parametrize("name", ["toy_ssd", "toy_centernet"])
def test_the_right_normalisation_agrees_best(name: str) -> None:
    """The toys' own detections under the right normalisation stand for the checkpoint's."""
    model = read(name)
    norms = adopt.candidates(read_input(name), None)
    given = dict(zip(norms, answers(name, *norms), strict=True))
    architecture = "ssd" if name == "toy_ssd" else "center_net"
    outputs = adopt.find_roles(model, architecture, list(given.values()), 3)
    found = {
        norm: [adopt._detections(answer, outputs) for answer in run_]
        for norm, run_ in given.items()
    }
    agreements = {norm: adopt._agreement(found[RIGHT], found[norm]) for norm in norms}
    assert agreements[RIGHT] == pytest.approx(1)
    assert agreements[UNIT] < 0.5
    # Raw pixels saturate: full colours are found all the same, a little surer than they should.
    assert max(agreements[norm] for norm in norms if norm != RIGHT) < agreements[RIGHT] - 1e-4
    assert adopt.choose(agreements) == RIGHT


def test_none_fits() -> None:
    with pytest.raises(StageError, match="does not find what its checkpoint finds"):
        adopt.choose({RIGHT: 0.3, RAW: 0.01})
    with pytest.raises(StageError, match="does not find what its checkpoint finds"):
        adopt.choose({RIGHT: float("nan")})


def test_several_fit() -> None:
    with pytest.raises(StageError, match=r"127\.5/127\.5 fits hardly better than 0/255"):
        adopt.choose({RIGHT: 0.9, UNIT: 0.85, RAW: 0.0})


def test_a_pixel_value_of_difference_does_not_matter() -> None:
    assert RIGHT.difference(NEAR) <= 1.01
    assert adopt.choose({NEAR: 0.951, RIGHT: 0.95, RAW: 0.1}) == NEAR
    assert adopt.choose({RIGHT: 0.951, NEAR: 0.95, RAW: 0.1}) == RIGHT


def test_differences_in_pixel_values() -> None:
    assert RAW.difference(RAW) == 0
    assert RAW.difference(UNIT) == pytest.approx(255 * 254)  # white fed as 255 in place of 1
    assert UNIT.difference(RAW) == pytest.approx(254)
    assert RIGHT.difference(IMAGENET) > 50


def test_shown_channel_by_channel_only_where_they_differ() -> None:
    assert RIGHT.shown() == "127.5/127.5"
    assert IMAGENET.shown() == "123.675/58.395 116.28/57.12 103.53/57.375"


def test_agreement_over_images() -> None:
    box = [0.0, 0.0, 0.5, 0.5]
    sure, faint = ({"box": box, "score": score, "class_id": 1} for score in (0.9, 0.1))
    assert adopt._agreement([[sure], [faint]], [[sure], []]) == pytest.approx(0.9)
    assert adopt._agreement([[], []], [[sure], []]) == 0  # the checkpoint finds nothing at all
    assert matching.agreement([sure], [sure]) == 1


@pytest.mark.parametrize("content", [b"", b"not a model", b"TFL3" * 40])
def test_no_tflite_at_all(content: bytes) -> None:
    with pytest.raises(StageError, match=r"model\.tflite cannot be read"):
        adopt._read(content, "model.tflite")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (1, 8, 8)}, "shapes"),
        ({"shape": (1, 8, 8, 1)}, "shapes"),
        ({"type": "int8"}, "int8"),
        ({"shape_signature": (1, -1, -1, 3)}, "no fixed size"),
    ],
)
def test_inputs_that_metadata_cannot_describe(changes: dict[str, Any], words: str) -> None:
    model = read("toy_ssd")
    tensors = list(model.graph.tensors)
    tensors[model.graph.inputs[0]] = tensor(**changes)
    changed = replace(model, subgraphs=(replace(model.graph, tensors=tuple(tensors)),))
    with pytest.raises(StageError, match=words):
        adopt._input(changed)
