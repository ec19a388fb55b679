"""EfficientDet D0 of the Object Detection API, from an archive in the zoo's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zoo
from support import Kiln, Stages, Wanted

from kiln.core.stage_result import StageResult
from stages.detect import matching
from stages.tflite import tflite_meta, tflite_model

#: Of the zoo's own size, so it takes minutes; a small one is among the families.
pytestmark = pytest.mark.nightly

MODEL = "random_d0"
TOP = "efficientdet_d0_random"
VARIANTS = ("float32", "int8")

#: Variables of the zoo's checkpoint that belong to the model.
VARIABLES = 683

#: ImageNet's mean and deviation of each channel times 255, as the model's own code has them.
NORMALIZATION = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}

#: Layers of the classifier that the backbone is cut from: in the checkpoint, not in a detector.
NOT_EXPORTED = ["logits/kernel", "top_conv2d/kernel"]


@pytest.fixture(scope="module")
def made(
    stages: Stages, images_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, StageResult]:
    """The whole model, with batch norm statistics of real images, and one without its heads."""
    config = tmp_path_factory.mktemp("config") / "pipeline.config"
    config.write_bytes(zoo.EFFICIENTDET_D0)
    given = {"pipeline_config": config}
    part = {"seed": 512, "only": "_feature_extractor"}
    return stages.run(
        Wanted("whole", "make_checkpoint", {"seed": 512}, {**given, "images": images_folder}),
        Wanted("part", "make_checkpoint", part, given),
    )


@pytest.fixture(scope="module")
def files(made: dict[str, StageResult], stages: Stages) -> dict[str, bytes]:
    return zoo.files_of(made["whole"], stages.store)


@pytest.fixture(scope="module")
def built(
    session_kiln: Kiln,
    files: dict[str, bytes],
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Kiln:
    place = tmp_path_factory.mktemp("d0-built")
    archive = zoo.pack(files, place / "model.tar.gz", top=TOP)
    models = zoo.Models(place / "models", project)
    # Random weights answer every rounding with other detections; test_families.py has such that
    # do not, for the checks.
    models.add(MODEL, archive, variants=VARIANTS, architecture="efficientdet", root=TOP,
               allow=("parity", "runtimes"))  # fmt: skip
    kiln = session_kiln.but(dist=place / "dist")
    kiln("build", "--models-dir", models.folder, timeout=900).ok()
    return kiln


def _facts(kiln: Kiln, step: str) -> dict[str, Any]:
    record = json.loads((kiln.dist / MODEL / "conversion.json").read_text("utf-8"))
    facts: dict[str, Any] = record["stages"][step]["facts"]
    return facts


def _artefact(kiln: Kiln, variant: str) -> Path:
    return kiln.dist / MODEL / f"{MODEL}_{variant}.tflite"


def test_all_of_it(built: Kiln) -> None:
    facts = _facts(built, "export")
    assert facts["variables"] == VARIABLES
    assert facts["num_classes"] == 90
    assert facts["input"] == {"height": 256, "width": 256}
    assert facts["max_detections"] == 100
    assert facts["normalization"] == NORMALIZATION
    assert facts["exact_batch_norms"] == 108
    assert facts["untrained"] == []
    for variant in VARIANTS:
        assert f"{MODEL}/{MODEL}_{variant}.tflite" in built.published()
        assert _facts(built, f"convert-{variant}")["custom_ops"] == ["TFLite_Detection_PostProcess"]
    assert built("verify", built.dist).code == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_channel_has_its_own_normalisation(built: Kiln, variant: str) -> None:
    """int8 too has a float input: a uint8 one has a single scale."""
    model = tflite_model.read(_artefact(built, variant).read_bytes())
    metadata = tflite_meta.read(model)
    assert metadata is not None
    image = metadata.inputs[0]
    assert image.mean == pytest.approx(NORMALIZATION["mean"])
    assert image.std == pytest.approx(NORMALIZATION["std"])
    assert model.graph.tensors[model.graph.inputs[0]].type == "float32"


def test_int8_is_quantised(built: Kiln) -> None:
    size = {v: _artefact(built, v).stat().st_size for v in VARIANTS}
    assert 2.2 < size["float32"] / size["int8"] < 4.2
    model = tflite_model.read(_artefact(built, "int8").read_bytes())
    outputs = [
        model.graph.tensors[operator.outputs[0]].type
        for operator in model.graph.operators
        if operator.builtin in (3, 4)  # CONV_2D, DEPTHWISE_CONV_2D
    ]
    assert outputs
    assert set(outputs) == {"int8"}


@pytest.fixture(scope="module")
def folder(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def results(
    built: Kiln, stages: Stages, folder: Path, images_folder: Path
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By source, by image: what is found. The reference by the rule of TFLite's operator."""
    images = {"images": images_folder}
    ran = stages.run(
        Wanted("reference", "reference", {}, {"checkpoint": folder, **images}),
        *(
            Wanted(variant, "detect", {}, {"model": _artefact(built, variant), **images})
            for variant in VARIANTS
        ),
    )
    reference = stages.json(ran["reference"], "detections.json")["as_tflite"]
    found = {name: stages.json(ran[name], "detections.json")["images"] for name in VARIANTS}
    return {"reference": reference, **found}


def test_float32_is_the_checkpoint(results: dict[str, Any]) -> None:
    for name, expected in results["reference"].items():
        found = results["float32"][name]
        ours, theirs = ([item["score"] for item in items] for items in (found, expected))
        worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        pairs = matching.match(expected, found)
        print(f"{name}: {len(pairs)} pairs, scores {min(theirs):.3f} to {max(theirs):.3f},"
              f" difference <= {worst:.2g}")  # fmt: skip
        # (What lies in the filling beside a photograph is left out; a square one has none.)
        assert 60 <= len(ours) <= 100
        assert worst <= 1e-4
        assert len(pairs) >= len(ours) - 2  # of two nearly equal ones either may be kept
        # Neither dead (one score for all) nor saturated.
        assert len(set(theirs)) > 20
        assert max(theirs) < 0.999
    assert max(len(items) for items in results["float32"].values()) == 100


def test_images_are_told_apart(results: dict[str, Any]) -> None:
    """A network whose values vanish on their way through answers every image alike."""
    one, other = list(results["reference"].values())[:2]
    assert matching.agreement(one, other) < 0.9


def test_int8_agrees(results: dict[str, Any]) -> None:
    """A deep network of random weights amplifies rounding: little of the first hundred stays in
    place, but far more than of another picture."""
    reference, found = results["reference"], results["int8"]
    names = list(reference)
    own = [matching.agreement(reference[name], found[name]) for name in names]
    others = [
        matching.agreement(reference[other], found[name])
        for name, other in zip(names, names[1:] + names[:1], strict=True)
    ]
    mean, control = sum(own) / len(own), sum(others) / len(others)
    print(f"int8: agreement {mean:.3f}, with another picture's {control:.3f}")
    assert mean >= 0.12
    assert mean >= 2 * control


def test_weights_are_the_checkpoint_s(built: Kiln, stages: Stages, folder: Path) -> None:
    model = _artefact(built, "float32")
    (result,) = stages.run(
        Wanted("weights", "weights_kept", {}, {"checkpoint": folder, "model": model})
    ).values()
    facts = result.facts
    assert facts["missing"] == NOT_EXPORTED
    assert facts["plain"] + facts["folded"] == facts["kernels"] - len(NOT_EXPORTED)


def test_variables_missing(
    made: dict[str, StageResult], stages: Stages, shared: Kiln, project: Path, tmp_path: Path
) -> None:
    models = zoo.Models(tmp_path / "models", project)
    content = zoo.files_of(made["part"], stages.store)
    archive = zoo.pack(content, tmp_path / "a.tar.gz", top=TOP)
    models.add("headless", archive, architecture="efficientdet", root=TOP)
    message = shared("build", "headless", "--models-dir", models.folder).refused(
        15, "headless", "variables are not in it"
    )
    assert "_box_predictor" in message
    assert shared.published() == []


def test_the_real_recipe_takes_only_the_real_archive(
    fresh: Kiln, files: dict[str, bytes], tmp_path: Path
) -> None:
    archive = zoo.pack(files, tmp_path / "a.tar.gz", top="efficientdet_d0_coco17_tpu-32")
    fresh("build", "efficientdet_d0_512x512", "--archive", archive).refused(
        12, zoo.DATA, "not the published file"
    )
    assert fresh.published() == []
    assert not (fresh.store / "refs" / "archive").exists()  # nothing is trusted
