"""Models whose own post-processing leaves out low scores, as some trainings are configured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import zoo
from families import FAMILIES, LABEL_MAP
from support import Kiln, Sample, Stages, Wanted

from stages.tflite import output_order, output_roles, tflite_model

FAMILY = FAMILIES["ssd_mobilenet_v2"]
PHOTOS = ("camera.png", "chelsea.png", "coffee.png")
VARIANT, NAME = "dynamic", "strict"
LOW, HIGH = 0.3, 0.98
"""Thresholds: that some detections reach, and that none does (``stand_out``: at most about 0.9)."""


def config(threshold: float) -> str:
    assert FAMILY.config.count("score_threshold: 1e-8") == 1
    return FAMILY.config.replace("score_threshold: 1e-8", f"score_threshold: {threshold}")


@dataclass(frozen=True)
class Trained:
    """A training's folder, and the arguments to convert it."""

    folder: Path
    options: tuple[str | Path, ...]

    def with_threshold(self, threshold: float) -> tuple[str | Path, ...]:
        path = self.folder / f"{threshold}.config"
        path.write_text(config(threshold))
        return (*self.options, "--pipeline-config", path)


@pytest.fixture(scope="module")
def trained(
    stages: Stages, images_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    place = tmp_path_factory.mktemp("trained")
    photos, folder = place / "photos", place / "training"
    photos.mkdir()
    for name in PHOTOS:
        (photos / name).write_bytes((images_folder / name).read_bytes())
    (place / "pipeline.config").write_text(config(LOW))
    (place / "labels.pbtxt").write_text(LABEL_MAP)
    given = {"pipeline_config": place / "pipeline.config", "images": photos}
    params = {"seed": 0, "number": 7, "stand_out": 20}
    ran = stages.run(Wanted("trained", "make_checkpoint", params, given))
    for path, data in zoo.files_of(ran["trained"], stages.store).items():
        target = folder / Path(path).name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    options = ("--checkpoint", folder, "--label-map", place / "labels.pbtxt", "--images", photos)
    return Trained(folder, options)


@pytest.fixture(scope="module")
def converted(
    session_kiln: Kiln, trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> Sample:
    """Converted and published. (Its own size and number of detections are given as ``annotate``
    gives them: it finds the export and what the source finds in the store.)"""
    dist = tmp_path_factory.mktemp("release") / "dist"
    own = ["--image-size", f"{FAMILY.side}x{FAMILY.side}", "--max-detections", "100"]
    options = [*trained.with_threshold(LOW), *own, "--variant", VARIANT, "--name", NAME]
    session_kiln("convert", *options, "-o", dist).ok()
    return Sample(session_kiln.but(dist=dist), dist / NAME)


def test_all_gates_run_and_pass(converted: Sample) -> None:
    checks = json.loads((converted.folder / "checks.json").read_text("utf-8"))
    gates = {gate["gate"]: gate for gate in checks["variants"][VARIANT]["gates"]}
    for name in ("structure", "runtime-tensorflow", "parity", "normalization", "labels", "trained"):
        assert gates[name]["status"] == "passed", gates[name]
    assert gates["runtime-task-library"]["status"] == "passed", gates["runtime-task-library"]
    assert gates["parity"]["figures"]["pairs"] >= 10
    detections = checks["variants"][VARIANT]["detections"]
    scores = [item["score"] for items in detections.values() for item in items]
    assert min(scores) >= LOW
    assert max(map(len, detections.values())) < 100  # no list is full


def test_the_bare_file_with_its_checkpoint_is_the_published_one(
    converted: Sample, trained: Trained, tmp_path: Path
) -> None:
    """``annotate --checkpoint`` derives and checks what a build does: with the same texts, the same
    bytes. (A build also names the signature's outputs by their roles; a finished file keeps its.)
    """
    bare = converted.output(f"convert-{VARIANT}", "", tmp_path / "bare") / "model.tflite"
    data = bare.read_bytes()
    roles = output_roles.derive(tflite_model.read(data), "ssd", None)
    bare.write_bytes(output_order.named(data, roles))
    made = tmp_path / "made.tflite"
    texts = ["--name", NAME, "--description", f"An object detector, from the checkpoint of {NAME}."]
    texts += ["--author", "unknown", "--licence", "NOASSERTION", "--model-version", "1"]
    said = converted.kiln("annotate", bare, *trained.with_threshold(LOW), *texts, "-o", made).ok()
    assert "8 checks passed" in said.out, said.out
    assert made.read_bytes() == converted.artefact(VARIANT).read_bytes()
    record = json.loads(made.with_name("made.tflite.json").read_text("utf-8"))
    gates = record["proof"]["variants"][VARIANT]["gates"]
    assert {gate["status"] for gate in gates} == {"passed"}
    assert record["normalization"]["from"] == "checkpoint"


def test_a_threshold_that_nothing_reaches(
    session_kiln: Kiln, trained: Trained, tmp_path: Path
) -> None:
    dist = tmp_path / "dist"
    options = [*trained.with_threshold(HIGH), "--variant", "float32", "--name", NAME, "-o", dist]
    said = session_kiln("convert", *options).refused(
        19,
        "1 check failed",
        "float32, parity (nothing-found)",
        "Nothing in these images reaches the model's own threshold of 0.98: give images of its "
        "kind with check.images in the recipe (--images)",
        "add --allow parity to the command",
    )
    assert "untrained" not in said
    assert "in its recipe" not in said
    assert not dist.exists() or not list(dist.glob(f"{NAME}/*"))
