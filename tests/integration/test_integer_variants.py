"""int16x8, layers left in float, and what explain-int8 measures, on one small model.

An SSD with a pyramid: its heads run on several levels with the same weights and biases.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from families import CLASSES, FAMILIES, FED, laid_out
from support import Stages, Wanted

from kiln.core.errors import UnsupportedModelError
from kiln.core.stage_result import StageResult
from kiln.measure import quantisation
from kiln.tflite.inspect import inspect
from stages.detect import detector
from stages.tflite import tflite_model

PHOTOS = ("chelsea.png", "coffee.png")
FAMILY = FAMILIES["ssd_mobilenet_v2_fpnlite"]
NORM = {"mean": [127.5] * 3, "std": [127.5] * 3}

#: A layer by its name, and a kind of operator, that int8 leaves in float.
LAYER = "ssd_mobile_net_v2_fpn_keras_feature_extractor/model/Conv1_relu/Relu6"
KIND = "LOGISTIC"
PICTURES = 5


@dataclass(frozen=True)
class Made:
    """The results of all stages."""

    ran: dict[str, StageResult]
    stages: Stages
    place: Path

    def model(self, variant: str) -> tflite_model.Model:
        return tflite_model.read(self.stages.model(self.ran[f"convert-{variant}"]))

    def types(self, variant: str) -> Counter[str]:
        """The types that operators with weights compute in."""
        graph = self.model(variant).graph
        return Counter(
            graph.tensors[op.outputs[0]].type for op in graph.operators if op.builtin in (3, 4)
        )

    def read(self, step: str, name: str) -> bytes:
        return self.stages.store.read(self.ran[step].files[name].sha256, name)


def convert(variant: str, **more: Any) -> Wanted:
    photos = more.pop("photos")
    graph = {"saved_model": ("export", "saved_model"), "images": photos}
    params = {"variant": variant, "feeding": FED, "calibration_number": PICTURES, **more}
    return Wanted(f"convert-{variant}", "convert", params, graph)


@pytest.fixture(scope="module")
def made(stages: Stages, images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("integer")
    photos, labels, config = laid_out(place, FAMILY.config, images_folder, PHOTOS)
    checkpoint = {"checkpoint": ("trained", "model")}
    known = {"architecture": "ssd", "num_classes": len(CLASSES), "normalization": NORM}
    float_layers = {"float_layers": [LAYER, KIND]}
    explained = {"feeding": FED, "calibration_number": PICTURES, **float_layers}
    graph = {"saved_model": ("export", "saved_model"), "images": photos}
    wanted = [
        Wanted(
            "trained",
            "make_checkpoint",
            {"seed": FAMILY.seed, "stand_out": FAMILY.stand_out},
            {"pipeline_config": config, "images": photos},
        ),
        Wanted("export", "export", {}, checkpoint),
        Wanted("reference", "reference", {}, {**checkpoint, "images": photos}),
        convert("int16x8", photos=photos),
        convert("int8", photos=photos, **float_layers),
        Wanted("explain", "explain_int8", explained, graph),
        Wanted(
            "annotate",
            "annotate",
            {**known, "feeding": FED},
            {"model": ("convert-int16x8", "model.tflite"), "label_map": labels},
        ),
        Wanted(
            "check",
            "check",
            {**known, "variant": "int16x8"},
            {
                "model": ("annotate", "model.tflite"),
                "images": photos,
                "label_map": labels,
                "source": ("reference", "detections.json"),
            },
        ),
    ]
    return Made(stages.run(*wanted), stages, place)


def test_int16x8_computes_in_16_bits(made: Made) -> None:
    assert set(made.types("int16x8")) == {"int16"}
    shown = inspect(made.stages.model(made.ran["annotate"])).as_json()
    assert shown["precision"]["words"].startswith("integer (int16, int8 weights) with 1 float")
    assert shown["precision"]["float_islands"] == [{"TFLite_Detection_PostProcess": 1}]
    assert [item["type"] for item in shown["inputs"]] == ["float32"]


def test_int16x8_has_a_bias_for_each_level(made: Made) -> None:
    """One that several levels share would have the scale of the first."""
    graph = made.model("int16x8").graph
    convolutions = [op for op in graph.operators if op.builtin in (3, 4)]
    assert len({op.inputs[2] for op in convolutions}) == len(convolutions)
    biases = [graph.tensors[op.inputs[2]] for op in convolutions]
    for op, bias in zip(convolutions, biases, strict=True):
        image, weights = (graph.tensors[index].quantization for index in op.inputs[:2])
        assert bias.type == "int64"
        assert image is not None
        assert weights is not None
        assert bias.quantization is not None
        expected = [image.scale[0] * scale for scale in weights.scale]
        assert bias.quantization.scale == pytest.approx(expected, rel=1e-5)


def test_int16x8_passes_the_gates(made: Made) -> None:
    gates = json.loads(made.read("check", "check.json"))["gates"]
    assert {gate["status"] for gate in gates} == {"passed"}, gates
    assert "parity" in {gate["gate"] for gate in gates}


def test_int16x8_runs_in_litert(made: Made) -> None:
    model = detector.Detector(made.stages.model(made.ran["annotate"]))
    assert model.runtime.startswith("ai_edge_litert")
    image = detector.pixels.load_rgb(made.place / "photos" / "chelsea.png")
    found = model.detect(image)
    source = json.loads(made.read("check", "check.json"))["detections"]["chelsea.png"]
    assert found[0]["class_id"] == source[0]["class_id"]
    assert found[0]["score"] == pytest.approx(source[0]["score"], abs=0.01)


def test_named_layers_and_kinds_stay_in_float(made: Made) -> None:
    graph = made.model("int8").graph
    assert made.types("int8")["float32"] == 1
    assert made.types("int8")["int8"] > 50
    for op in graph.operators:
        output = graph.tensors[op.outputs[0]]
        if op.builtin == 14:  # LOGISTIC
            assert output.type == "float32"
        if op.builtin in (3, 4):
            assert (output.type == "float32") == output.name.startswith(f"{LAYER};")


def test_facts_tell_how_many_pictures_there_were(made: Made) -> None:
    facts = made.ran["convert-int8"].facts
    assert facts["calibration_images"] == list(PHOTOS)
    assert facts["calibration_pictures"] == PICTURES


def test_every_quantised_layer_is_explained(made: Made) -> None:
    found = quantisation.read("small", made.read("explain", quantisation.LAYERS_FILE))
    assert found.pictures == PICTURES
    assert LAYER in found.in_float
    assert not any(layer.operator == KIND for layer in found.layers)
    names = [layer.name for layer in found.layers]
    assert len(set(names)) == len(names)
    kinds = Counter(layer.operator for layer in found.layers)
    types = made.types("int8")
    assert kinds["CONV_2D"] + kinds["DEPTHWISE_CONV_2D"] == types["int8"]
    # A layer with weights is off by rounding at least, and by no more than a few steps.
    weighted = [layer for layer in found.layers if "CONV" in layer.operator]
    assert all(0.2 < layer.rmse_by_scale < 20 for layer in weighted)
    assert all(layer.rmse <= layer.max_error for layer in found.layers)


def test_a_layer_that_does_not_exist(made: Made) -> None:
    wrong = convert(
        "int8", photos=made.place / "photos", float_layers=[LAYER.replace("Conv1", "Conv2")]
    )
    with pytest.raises(UnsupportedModelError, match="Names near to it") as caught:
        made.stages.run(*made_again(made), wrong)
    assert LAYER in str(caught.value)


def made_again(made: Made) -> list[Wanted]:
    """The steps up to the export: their results are in the store."""
    config, photos = made.place / "pipeline.config", made.place / "photos"
    return [
        Wanted(
            "trained",
            "make_checkpoint",
            {"seed": FAMILY.seed, "stand_out": FAMILY.stand_out},
            {"pipeline_config": config, "images": photos},
        ),
        Wanted("export", "export", {}, {"checkpoint": ("trained", "model")}),
    ]
