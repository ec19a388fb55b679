"""The annotate stage's parameters and checks; its bytes are in the integration tests."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from annotate_cases import CASES, DECODING, NORMALIZATION
from places import FIXTURES

from stages.protocol.events import Emitter, EventStream
from stages.protocol.failures import StageError
from stages.protocol.request import complete_params
from stages.steps import annotate
from stages.tflite import metadata_writer, output_roles, tflite_meta, tflite_model


def run(folder: Path, **params: Any) -> dict[str, Any]:
    (folder / "out").mkdir(exist_ok=True)
    with open(os.devnull, "w") as sink:  # noqa: PTH123 - a descriptor is what is needed
        emit = Emitter(EventStream(sink.fileno()), "a")
        inputs = {
            "model": params.pop("model", FIXTURES / "toy_ssd.tflite"),
            "label_map": params.pop("label_map", FIXTURES / "toy_labels.pbtxt"),
        }
        if "decoding" in params:
            inputs["decoding"] = params.pop("decoding")
        complete = complete_params(params, annotate.PARAMS, "annotate")
        return annotate.run(complete, inputs, folder / "out", emit)


GOOD: dict[str, Any] = {"architecture": "ssd", "num_classes": 3, "normalization": NORMALIZATION}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"profile": "seeds"}, "stage-failed", "'seeds'"),
        ({"architecture": "yolo"}, "stage-failed", "'yolo'"),
        ({"num_classes": 0}, "stage-failed", "num_classes"),
        ({"num_classes": True}, "stage-failed", "num_classes"),
        ({"name": None}, "stage-failed", "'name'"),
        ({"score_threshold": 1.5}, "stage-failed", "score_threshold"),
        ({"score_threshold": float("nan")}, "stage-failed", "score_threshold"),
        ({"normalization": None}, "stage-failed", "normalization"),
        ({"normalization": {"mean": [0.0]}}, "stage-failed", "normalization"),
        ({"normalization": {"mean": [0, 0], "std": [1, 1]}}, "stage-failed", "normalization"),
        ({"normalization": {"mean": [0], "std": [0]}}, "stage-failed", "normalization"),
        ({"normalization": {"mean": [], "std": []}}, "stage-failed", "normalization"),
        ({"roles": ["boxes"]}, "stage-failed", "roles"),
        ({"profile": "seed", "label_file_name": "../x"}, "stage-failed", "label_file_name"),
        ({"unheard_of": 1}, "stage-failed", "unheard_of"),
        ({"output_order": "tf3"}, "stage-failed", "output_order"),
        ({"output_order": "tf1", "profile": "seed"}, "stage-failed", "output_order"),
        ({"role_names": 1}, "stage-failed", "role_names"),
        ({"role_names": True, "profile": "seed"}, "stage-failed", "role_names"),
        ({"num_classes": 90}, "label-map", "3 items with ids up to 3, but the model has 90"),
        ({"num_classes": 1}, "label-map", "3 items with ids up to 3, but the model has 1"),
        ({"architecture": "centernet"}, "unsupported-model", "TFLite_Detection_PostProcess"),
        ({"model": FIXTURES / "toy_labels.pbtxt"}, "unsupported-model", "not a TFLite model"),
        ({"label_map": FIXTURES / "toy_ssd.tflite"}, "label-map", "toy_ssd.tflite, line"),
        ({"label_map": FIXTURES / "absent.pbtxt"}, "label-map", "absent.pbtxt"),
        (
            {
                "model": FIXTURES / "toy_centernet.tflite",
                "architecture": "centernet",
                "profile": "seed",
            },
            "unsupported-model",
            "seed profile",
        ),
        (
            {
                "model": FIXTURES / "toy_ssd_uint8.tflite",
                "normalization": {"mean": [0], "std": [255]},
            },
            "unsupported-model",
            "raw pixels",
        ),
    ],
)
def test_refused(tmp_path: Path, change: dict[str, Any], kind: str, words: str) -> None:
    with pytest.raises(StageError) as caught:
        run(tmp_path, **{**GOOD, **change})
    assert caught.value.kind == kind
    assert words in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_pixel_error_is_in_pixel_values() -> None:
    exact = tflite_model.Quantization((1 / 127.5,), (127,), 0)
    assert annotate.pixel_error(exact, (127.5,), (127.5,)) == pytest.approx(0.5)
    assert annotate.pixel_error(exact, (127.5, 127.5, 124.0), (127.5,) * 3) == pytest.approx(3.0)
    raw = tflite_model.Quantization((1.0,), (), 0)
    assert annotate.pixel_error(raw, (0.0,), (1.0,)) == 0.0
    int8 = tflite_model.Quantization((1 / 127.5,), (-1,), 0)
    assert annotate.pixel_error(int8, (127.5,), (127.5,), -128) == pytest.approx(0.5)
    assert annotate.pixel_error(int8, (127.5,), (127.5,)) == pytest.approx(128.5)


def in_tf1_order_by_role(source: tflite_model.Model, architecture: str) -> tflite_model.Model:
    """The model with its outputs in TensorFlow 1's order, under their roles in the signature."""
    derived = output_roles.derive(source, architecture)
    tensors = tuple(derived[role].tensor for role in ("boxes", "classes", "scores", "count"))
    (signature,) = source.signatures
    names = {output.tensor: role for role, output in derived.items()}
    renamed = {names[tensor]: tensor for tensor in signature.outputs.values()}
    return replace(
        source,
        subgraphs=(replace(source.graph, outputs=tensors),),
        signatures=(replace(signature, outputs=renamed),),
    )


RAW: dict[str, Any] = {**GOOD, "postprocess": "none", "model": FIXTURES / "toy_raw.tflite"}


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"postprocess": "nothing"}, "stage-failed", "postprocess"),
        ({"profile": "seed"}, "stage-failed", "postprocess"),
        ({"output_order": "tf1"}, "stage-failed", "postprocess"),
        ({"model": FIXTURES / "toy_ssd.tflite"}, "unsupported-model", "by their names"),
        ({"anchors": DECODING.anchors[16:]}, "unsupported-model", "have the shape [1, 4, 4]"),
        ({"classes": 2}, "unsupported-model", "raw_scores have the shape [1, 4, 3], not [1, 4, 2]"),
    ],
)
def test_raw_outputs_refused(tmp_path: Path, change: dict[str, Any], kind: str, words: str) -> None:
    about = {name: change[name] for name in ("anchors", "classes") if name in change}
    params = {**RAW, **{name: value for name, value in change.items() if name not in about}}
    with pytest.raises(StageError) as caught:
        run(tmp_path, decoding=described(tmp_path, **about), **params)
    assert caught.value.kind == kind
    assert words in caught.value.message


def described(folder: Path, **changes: Any) -> Path:
    """What an export writes of raw outputs."""
    (folder / "decoding").mkdir()
    for name, content in replace(DECODING, **changes).as_files().items():
        (folder / "decoding" / name).write_bytes(content)
    return folder / "decoding"


def test_pinned_raw_outputs_are_described() -> None:
    data = (FIXTURES / "toy_raw_annotated.tflite").read_bytes()
    model = tflite_model.read(data)
    found = tflite_meta.read(model)
    assert found is not None
    assert [output.name for output in found.outputs] == ["raw_boxes", "raw_scores"]
    assert found.outputs[0].box is None  # they are encodings, no boxes
    assert tflite_meta.output_files(data, found, "raw_boxes") == DECODING.as_files()
    assert tflite_meta.labels(data, found) == ["red", "green", "blue"]
    roles = output_roles.derive_raw(model, anchors=4, classes=3)
    assert [output.position for output in roles.values()] == [0, 1]
    assert [output.signature_name for output in roles.values()] == list(roles)
    before = tflite_model.read((FIXTURES / "toy_raw.tflite").read_bytes())
    assert (before.graph.operators, before.graph.tensors) == (
        model.graph.operators, model.graph.tensors
    )  # fmt: skip


def with_output_shapes(
    model: tflite_model.Model, shapes: list[tuple[int, ...]]
) -> tflite_model.Model:
    """The model with these shapes of its outputs, and nothing else changed."""
    tensors = list(model.graph.tensors)
    for number, shape in zip(model.graph.outputs, shapes, strict=True):
        tensors[number] = replace(tensors[number], shape=shape)
    return replace(model, subgraphs=(replace(model.graph, tensors=tuple(tensors)),))


@pytest.mark.parametrize("name", sorted(name for name in CASES if "raw" not in name))
def test_pinned_results_say_what_was_declared(name: str) -> None:
    source, params = CASES[name]
    before = tflite_model.read((FIXTURES / f"{source}.tflite").read_bytes())
    if params.get("output_order") == "tf1":
        before = in_tf1_order_by_role(before, params["architecture"])
    data = (FIXTURES / f"{name}.tflite").read_bytes()
    after = tflite_model.read(data)
    found = tflite_meta.read(after)
    assert found is not None
    if source != "toy_centernet" and params.get("profile") != "seed":
        shapes = [after.graph.tensors[tensor].shape for tensor in after.graph.outputs]
        assert shapes == [(1, 4), (1, 4, 4), (1,), (1, 4)]
        before = with_output_shapes(before, shapes)
    assert annotate.same_graph(before, after)
    image = found.inputs[0]
    seed = params.get("profile") == "seed"
    assert (image.mean, image.std) == (((0.0,), (255.0,)) if seed else ((127.5,), (127.5,)))
    assert image.color_space == "rgb"
    for role, output in output_roles.derive(before, params["architecture"]).items():
        assert found.output(metadata_writer.NAMES[role]) == output.position
    box = found.outputs[found.output("location")].box
    assert box == tflite_meta.BoxFormat((1, 0, 3, 2), "boundaries", "ratio")
    labels = tflite_meta.labels(data, found)
    if seed:
        assert labels == (FIXTURES / "toy_labels.pbtxt").read_text().splitlines()
    else:
        assert labels == ["red", "green", "blue"]
        assert found.name == "Toy"
        assert found.license == params.get("license", "")
        threshold = found.outputs[found.output("score")].score_threshold
        assert threshold == params.get("score_threshold")
    assert found.min_parser_version


def test_same_graph_sees_a_changed_weight() -> None:
    data = bytearray((FIXTURES / "toy_ssd.tflite").read_bytes())
    before = tflite_model.read(bytes(data))
    largest = max(before.buffers, key=len)
    position = bytes(data).index(bytes(largest))
    data[position] ^= 1
    assert not annotate.same_graph(before, tflite_model.read(data))
