"""Models of which there is only an exported SavedModel, from that folder to signed artefacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import accuracy
import pytest
import scenes
from families import FAMILIES, LABEL_MAP
from places import ROOT
from support import SAMPLE, SAMPLES, Ended, Kiln, Stages, Wanted

from kiln.core.digest import sha256_file
from kiln.core.stage_result import StageResult
from kiln.recipes.recipe import load
from kiln.recipes.source import StageSource
from stages.files.normalizations import three
from stages.gates.stated_normalization import confirmed

SAMPLES_DIR = ROOT / "models" / "samples"
CENTERNET = "centernet_mobilenet_v2_fpn_shapes"
LITE = "efficientdet_lite0_shapes"
SPEC = "efficientdet_lite0"
FAMILY = FAMILIES["ssd_mobilenet_v2"]
#: Of scenes that no other test measures.
FIRST_SEED = scenes.VALIDATION + 200_000


def _checkpoint(name: str) -> Wanted:
    """The stage that makes a sample's checkpoint, as its recipe says."""
    recipe = load(SAMPLES_DIR / name / "recipe.toml", SAMPLES_DIR.parent)
    assert isinstance(recipe.source, StageSource)
    inputs = {key: recipe.resolve(item.path) for key, item in recipe.source.inputs.items()}
    return Wanted(name, recipe.source.stage, recipe.source.params, inputs)


def _laid_out(stages: Stages, result: StageResult, inside: str, target: Path) -> Path:
    """What a user has: the folder, without what our own export leaves in it."""
    files = {
        path.removeprefix(f"{inside}/"): blob
        for path, blob in result.files.items()
        if path.startswith(f"{inside}/") and "assets.extra" not in path
    }
    assert files, f"nothing in {inside}"
    stages.store.materialize(files, target, link=False)
    return target


@pytest.fixture(scope="module")
def exports(stages: Stages, images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain exports by the Object Detection API: the SSD sample, and a net whose batch norms have
    the statistics of the sample images, as from a training on them. And of the CenterNet sample
    an export of ours, whose batch norms are constants."""
    place = tmp_path_factory.mktemp("exports")
    config = place / "pipeline.config"
    config.write_text(FAMILY.config)
    # As test_convert's, so that one run makes it once.
    params = {"seed": 3, "number": 7, "optimizer": True, "stand_out": 60}
    given = {"pipeline_config": config, "images": images_folder}
    wanted = [
        _checkpoint(SAMPLE),
        _checkpoint(CENTERNET),
        Wanted("trained", "make_checkpoint", params, given),
    ]
    for name in (SAMPLE, CENTERNET, "trained"):
        how = {"exact_batch_norm": name == CENTERNET}
        wanted.append(Wanted(f"{name}-out", "export", how, {"checkpoint": (name, "model")}))
    ran = stages.run(*wanted)
    for name in (SAMPLE, CENTERNET, "trained"):
        _laid_out(stages, ran[f"{name}-out"], "saved_model", place / name / "saved_model")
    (place / "labels.pbtxt").write_text(LABEL_MAP)
    # Of a training that counted more detections than were exported.
    text = (SAMPLES_DIR / SAMPLE / "pipeline.config").read_text("utf-8")
    assert "max_total_detections: 100" in text
    (place / "two_hundred.config").write_text(
        text.replace("max_total_detections: 100", "max_total_detections: 200")
    )
    return place


@pytest.fixture(scope="module")
def others(stages: Stages, exports: Path) -> StageResult:
    """SavedModels that cannot be converted, and what is said of each."""
    good = {"saved_model": exports / "trained" / "saved_model"}
    return stages.run(Wanted("other", "other_saved_models", {}, good))["other"]


def _convert(kiln: Kiln, saved_model: Path, *more: str | Path) -> Ended:
    return kiln("convert", "--saved-model", saved_model, *more, "-o", kiln.dist)


def _of(name: str) -> list[str | Path]:
    return ["--label-map", SAMPLES_DIR / name / "label_map.pbtxt", "--name", name]


def _record(kiln: Kiln, name: str, file: str) -> Any:
    return json.loads((kiln.dist / name / file).read_text("utf-8"))


# --- published ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "images", "variant", "more", "origin"),
    [
        (
            SAMPLE,
            "images",
            "float32",
            ["--pipeline-config", "two_hundred.config"],
            "pipeline.config",
        ),
        (CENTERNET, "shapes", "int8", [], "graph"),
    ],
    ids=[SAMPLE, CENTERNET],
)
def test_published(
    name: str, images: str, variant: str, more: list[Any], origin: str, shared: Kiln, exports: Path
) -> None:
    """All gates pass, held against the SavedModel itself."""
    more = [exports / item if item == "two_hundred.config" else item for item in more]
    given = [*_of(name), *more, "--calibration", SAMPLES_DIR / images, "--variant", variant]
    ended = _convert(shared, exports / name, *given).ok()
    assert shared("verify", shared.dist).code == 0
    checks = _record(shared, name, "checks.json")
    assert checks["source"]["checkpoint"] == "saved_model"
    found = checks["source"]["detections"]
    assert sum(len(items) for items in found.values()) >= 3
    gates = {gate["gate"]: gate["status"] for gate in checks["variants"][variant]["gates"]}
    assert gates["parity"] == gates["normalization"] == gates["structure"] == "passed"
    record = _record(shared, name, "conversion.json")
    assert record["source"]["kind"] == "saved_model"
    facts = record["stages"]["export"]["facts"]
    assert facts["normalization_from"] == origin
    assert facts["same_on_every_cpu"] is (name == CENTERNET)
    assert str(exports) not in json.dumps(record)
    told = {item["what"]: (item["config"], item["built"]) for item in record["differences"]}
    if not more:
        assert told == {}
        return
    assert told == {
        "detections, at most": ("200", "100"),
        "suppression of overlaps": ("within each class", "across classes, one class a box"),
    }
    assert "pipeline.config says 200, built is 100." in ended.err
    assert "--max_detections 200 of export_tflite_graph_tf2.py" in ended.err
    assert "suppression of overlaps" not in ended.err


def test_it_finds_what_the_checkpoint_finds(
    stages: Stages, exports: Path, images_folder: Path
) -> None:
    """The graph, run with its stand-in opened, against the model that it was exported from."""
    known = {"mean": [127.5] * 3, "std": [127.5] * 3}
    params = {"normalization": known, "normalization_from": "pipeline.config"}
    params["resizer"] = "fixed_shape_resizer { height: 300 width: 300 }"
    images = {"images": images_folder}
    graph = {"saved_model": exports / SAMPLE / "saved_model", **images}
    ran = stages.run(
        _checkpoint(SAMPLE),
        Wanted("model", "reference", {}, {"checkpoint": (SAMPLE, "model"), **images}),
        Wanted("graph", "saved_model_reference", params, graph),
    )
    expected = stages.json(ran["model"], "detections.json")["as_tflite"]
    found = stages.json(ran["graph"], "detections.json")["as_tflite"]
    assert ran["graph"].facts["max_detections"] == ran["model"].facts["max_detections"]
    compared = 0
    for name, items in expected.items():
        best = [item for item in items if item["score"] >= 0.2]
        for one, other in zip(best, found[name], strict=False):
            compared += 1
            assert one["class_id"] == other["class_id"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert one["box"] == pytest.approx(other["box"], abs=1e-4)
    assert compared >= 6


def test_its_accuracy(shared: Kiln, exports: Path, tmp_path: Path) -> None:
    """Before conversion it is the SavedModel itself that is measured; noted in the release."""
    side = SAMPLES[CENTERNET]
    made = {f"{n:02}.png": scenes.scene(FIRST_SEED + n, side, side) for n in range(8)}
    data = accuracy.data_set(made, scenes.CLASSES, tmp_path / "data set")
    models = tmp_path / "models"
    given = ["--saved-model", exports / CENTERNET, *_of(CENTERNET), "--variant", "int8"]
    given += ["--calibration", SAMPLES_DIR / "shapes"]
    shared("init", "-o", models / CENTERNET, *given).ok()
    shared("build", CENTERNET, "--models-dir", models).ok()
    command = ["accuracy", CENTERNET, "--models-dir", models, "--coco", data]
    shared(*command, "--dist", shared.dist, "--record").ok()

    assert shared("verify", shared.dist).code == 0
    (entry,) = json.loads((shared.dist / "accuracy.json").read_text("utf-8"))["files"]
    artefact = shared.dist / CENTERNET / entry["file"]
    assert entry["sha256"] == sha256_file(artefact)
    assert entry["source"]["ap"] > 0.5
    assert abs(entry["source"]["ap"] - entry["result"]["ap"]) < 0.05
    assert (entry["dataset"]["name"], entry["dataset"]["images"]) == ("data set", 8)
    page = (shared.dist / "index.html").read_text("utf-8")
    assert "COCO AP, before → after conversion. Measured on data set, 8 images." in page
    # Converted instead, it is the same file: nothing is left to run.
    nowhere = shared.but(engine="unix:///nowhere/docker.sock")
    again = nowhere(*command, "--json").ok()
    told = {e["what"]: e["ap"] for e in again.events if e["event"] == "accuracy"}
    assert told == {"source": entry["source"]["ap"], "int8": entry["result"]["ap"]}


# --- a normalisation that was only said ----------------------------------------------------------


def test_a_wrong_normalisation_is_caught(shared: Kiln, exports: Path) -> None:
    given = ["--label-map", exports / "labels.pbtxt", "--name", "trained", "--variant", "float32"]
    given += ["--images", SAMPLES_DIR / "images", "--mean", "0", "--std", "255"]
    ended = _convert(shared, exports / "trained" / "saved_model", *given)
    message = ended.refused(19, "mean/std 0/255 (0 to 1)")
    expected = message.partition("float32, normalization")[2].partition("expected: ")[2]
    assert expected.startswith("mean/std 127.5/127.5 (-1 to 1)")
    assert shared.published() == []


def test_the_right_one_is_confirmed(stages: Stages, exports: Path) -> None:
    """On the images of the training, and on others."""
    norm = three((127.5,), (127.5,))
    params = {"normalization": norm.as_fact(), "normalization_from": "given"}
    graph = {"saved_model": exports / "trained" / "saved_model"}
    ran = stages.run(
        *[
            Wanted(name, "saved_model_reference", params, {**graph, "images": SAMPLES_DIR / name})
            for name in ("images", "shapes")
        ]
    )
    for result in ran.values():
        tried = result.facts["normalizations"]
        assert len(tried) == 5
        assert confirmed(tried, norm)


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("serving", "unsupported-model", ["for serving", "--checkpoint", "export_tflite_graph"]),
        ("tf1", "unsupported-model", ["TensorFlow 1"]),
        ("unsigned", "unsupported-model", ["no signature 'serving_default'"]),
        ("classifier", "unsupported-model", ["gives probabilities", "export_tflite_graph_tf2"]),
        ("keypoints", "unsupported-model", ["--centernet_include_keypoints"]),
        ("batch", "unsupported-model", ["takes 8x64x64x1 float, and not one"]),
        ("damaged_graph", "checkpoint", ["saved_model.pb cannot be read"]),
        ("damaged_variables", "checkpoint", ["cannot be read", "damaged"]),
    ],
)
def test_what_cannot_be_converted(
    name: str, kind: str, words: list[str], others: StageResult
) -> None:
    told, message = others.facts[name]
    assert told == kind
    for word in words:
        assert word in message


def test_refused_at_once(shared: Kiln, stages: Stages, exports: Path, others: StageResult) -> None:
    plain = [*_of(SAMPLE), "--variant", "float32"]
    serving = _laid_out(stages, others, "serving", exports / "serving")
    _convert(shared, serving, *plain).refused(14, "exported for serving", "--checkpoint")
    words = ["--pipeline-config", "--mean 127.5 --std 127.5"]
    _convert(shared, exports / SAMPLE, *plain).refused(14, *words)
    assert shared.published() == []


# --- Model Maker's -------------------------------------------------------------------------------


@pytest.mark.nightly  # two whole conversions of one net
def test_the_bytes_of_model_makers_checkpoint(
    shared: Kiln, lite_stages: Stages, tmp_path: Path
) -> None:
    """Model Maker's own export of the sample's net, against the sample's checkpoint."""
    params = {"spec": SPEC}
    ran = lite_stages.run(
        _checkpoint(LITE),
        Wanted(
            "saved",
            "export_as_saved_model",
            {**params, "classes": 5},
            {"checkpoint": (LITE, "model")},
        ),
        Wanted(
            "taken", "saved_model_checkpoint", params, {"saved_model": ("saved", "saved_model")}
        ),
        Wanted("own", "modelmaker_export", params, {"checkpoint": (LITE, "model")}),
    )
    assert ran["taken"].facts == {"variables": 588, "saved_kind": "training"}
    saved = _laid_out(lite_stages, ran["saved"], "saved_model", tmp_path / "saved_model")
    given = [*_of(LITE), "--variant", "float32", "--images", SAMPLES_DIR / "shapes"]
    _convert(shared, saved, *given, "--model-maker", SPEC).ok()
    record = _record(shared, LITE, "conversion.json")
    assert record["source"]["kind"] == "saved_model"
    # What is converted is the same, to the last byte; nothing else goes into an artefact.
    export = record["stages"]["export"]
    assert export["files"] == {name: blob.sha256 for name, blob in ran["own"].files.items()}
    assert export["facts"] == ran["own"].facts
    # Without saying whose it is, or with another spec.
    _convert(shared, saved, *given).refused(14, "--model-maker efficientdet_lite0")
    other = [*given, "--model-maker", "efficientdet_lite1"]
    _convert(shared, saved, *other).refused(15, "64 wide", SPEC)
