"""The path of a zoo archive: the full 90-class SSD MobileNet v2, with weights of our own."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zoo
from support import VARIANTS, Kiln, Stages, Wanted

MODEL, SEED = "random_ssd", "random_ssd_seed"

#: What the project's own recipe of that profile allows.
FAULTS = ["normalization", "labels", "parity", "runtimes"]

#: COCO's ids with a gap: its 80 classes are numbered 1 to 90.
GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


@pytest.fixture(scope="module")
def archive(zoo_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.pack(zoo_files, tmp_path_factory.mktemp("zoo") / "model.tar.gz")


@pytest.fixture(scope="module")
def built(
    session_kiln: Kiln,
    archive: Path,
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Kiln, zoo.Models]:
    """The model in all variants and its 2021 profile, which keeps ten detections."""
    folder = tmp_path_factory.mktemp("zoo-built")
    models = zoo.Models(folder / "models", project)
    models.add(MODEL, archive, variants=VARIANTS)
    models.add(SEED, archive, variants=("dynamic",), profile="seed", allow=FAULTS,
               more="[export]\nmax_detections = 10\n")  # fmt: skip
    kiln = session_kiln.but(dist=folder / "dist")
    kiln("build", "--models-dir", models.folder, "--jobs", "2").ok()
    return kiln, models


def _record(kiln: Kiln, model: str) -> dict[str, Any]:
    path = kiln.dist / model / "conversion.json"
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record


def test_all_of_it(built: tuple[Kiln, zoo.Models]) -> None:
    kiln, _ = built
    for variant in VARIANTS:
        assert f"{MODEL}/{MODEL}_{variant}.tflite" in kiln.published()
    facts = _record(kiln, MODEL)["stages"]["export"]["facts"]
    assert facts["num_classes"] == 90
    assert facts["variables"] == 324
    assert facts["input"] == {"height": 300, "width": 300}
    assert facts["exact_batch_norms"] > 0
    assert kiln("verify", kiln.dist).code == 0


def test_labels(built: tuple[Kiln, zoo.Models]) -> None:
    kiln, _ = built
    beside = (kiln.dist / MODEL / "labelmap.txt").read_text("utf-8")
    lines = beside.splitlines()
    assert len(lines) == 90
    assert {number for number, line in enumerate(lines, 1) if line == "???"} == GAPS
    assert (lines[0], lines[16], lines[89]) == ("person", "cat", "toothbrush")
    for variant in VARIANTS:
        with zipfile.ZipFile(kiln.dist / MODEL / f"{MODEL}_{variant}.tflite") as packed:
            assert sorted(packed.namelist()) == ["feeding.json", "labelmap.txt"]
            assert packed.read("labelmap.txt").decode("utf-8") == beside


def test_number_of_detections(built: tuple[Kiln, zoo.Models]) -> None:
    """The model's own post-processing keeps 100; the exporter's default is 10."""
    from stages.detect import detector
    from stages.files import pixels

    kiln, models = built
    image = pixels.load_rgb(models.folder / "images" / "coffee.png")
    for variant in VARIANTS:
        model = detector.load(kiln.dist / MODEL / f"{MODEL}_{variant}.tflite")
        # Random weights see things everywhere: the number is what the operator keeps.
        assert len(model.detect(image)) == 100
    facts = {model: _record(kiln, model)["stages"]["export"]["facts"] for model in (MODEL, SEED)}
    assert facts[MODEL]["max_detections"] == 100
    assert facts[SEED]["max_detections"] == 10
    told = [(item["config"], item["built"]) for item in _record(kiln, SEED)["differences"]]
    assert ("100", "10") in told
    seed = detector.load(kiln.dist / SEED / f"{SEED}_dynamic.tflite")
    assert len(seed.detect(image)) == 10


def test_the_seed_profile_is_wrong_as_it_was(built: tuple[Kiln, zoo.Models]) -> None:
    from stages.tflite import tflite_meta, tflite_model

    kiln, models = built
    data = (kiln.dist / SEED / f"{SEED}_dynamic.tflite").read_bytes()
    metadata = tflite_meta.read(tflite_model.read(data))
    assert metadata is not None
    assert (list(metadata.inputs[0].mean), list(metadata.inputs[0].std)) == ([0.0], [255.0])
    with zipfile.ZipFile(kiln.dist / SEED / f"{SEED}_dynamic.tflite") as packed:
        raw = packed.read("mscoco.pbtxt")
    assert raw == (models.folder / "labels" / "mscoco.pbtxt").read_bytes()
    right = tflite_meta.read(
        tflite_model.read((kiln.dist / MODEL / f"{MODEL}_dynamic.tflite").read_bytes())
    )
    assert right is not None
    assert set(right.inputs[0].mean) == {127.5}
    assert set(right.inputs[0].std) == {127.5}
    assert _record(kiln, SEED)["profile"] == "seed"


def test_the_seed_profile_is_refused_unless_its_faults_are_allowed(
    built: tuple[Kiln, zoo.Models], archive: Path
) -> None:
    """Both mistakes of its metadata are named; its recipe in the project allows just these."""
    kiln, models = built
    known = (kiln.project / "models" / "ssd_mobilenet_v2_320x320_seed" / "recipe.toml").read_text()
    assert f"allow = {json.dumps(FAULTS)}\n" in known
    checks = json.loads((kiln.dist / SEED / "checks.json").read_text("utf-8"))
    states = {gate["gate"]: gate["status"] for gate in checks["variants"]["dynamic"]["gates"]}
    assert states["normalization"] == states["labels"] == "allowed"
    assert not checks["variants"]["dynamic"]["passed"]
    name = models.add("strict_seed", archive, variants=("dynamic",), profile="seed",
                      more="[export]\nmax_detections = 10\n")  # fmt: skip
    before = kiln.published()
    kiln("build", name, "--models-dir", models.folder).refused(
        19,
        "strict_seed",
        "mean/std 0/255 (0 to 1)",
        "mean/std 127.5/127.5 (-1 to 1), the model's own preprocessing",
        "labels-pbtxt",
        "allow = ",
    )
    assert kiln.published() == before


def test_artefacts_differ_where_they_should(built: tuple[Kiln, zoo.Models]) -> None:
    """float32 holds the checkpoint's weights: about four times what int8 weights take."""
    kiln, _ = built
    size = {v: (kiln.dist / MODEL / f"{MODEL}_{v}.tflite").stat().st_size for v in VARIANTS}
    assert 3.4 < size["float32"] / size["dynamic"] < 4.2
    assert 1.9 < size["float32"] / size["float16"] < 2.1
    assert 3.4 < size["float32"] / size["int8"] < 4.2


def test_float32_is_the_checkpoint(
    built: tuple[Kiln, zoo.Models], stages: Stages, zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    """Every score of the artefact is that of the checkpoint, with statistics that are not mild."""
    kiln, models = built
    for name, data in zoo_files.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("chelsea.png", "rocket.jpg"):
        (images / name).write_bytes((models.folder / "images" / name).read_bytes())
    artefact = kiln.dist / MODEL / f"{MODEL}_float32.tflite"
    ran = stages.run(
        Wanted("reference", "reference", {}, {"checkpoint": tmp_path / "model", "images": images}),
        Wanted("detect", "detect", {}, {"model": artefact, "images": images}),
    )
    reference = stages.json(ran["reference"], "detections.json")["as_tflite"]
    found = stages.json(ran["detect"], "detections.json")["images"]
    for name, items in reference.items():
        ours = [item["score"] for item in found[name]]
        theirs = [item["score"] for item in items]
        assert len(ours) == len(theirs) == 100
        worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        print(f"{name}: scores {min(theirs):.3f} to {max(theirs):.3f}, difference <= {worst:.2g}")
        assert worst <= 1e-4
        # Neither dead (one score for all) nor saturated.
        assert len(set(theirs)) > 20
        assert max(theirs) < 0.999


def test_archive_at_hand(
    built: tuple[Kiln, zoo.Models], archive: Path, shared: Kiln, tmp_path: Path, project: Path
) -> None:
    """``--archive FILE`` stands in for an address that nobody answers at."""
    models = zoo.Models(tmp_path / "models", project)
    models.add("at_hand", "http://127.0.0.1:9/model.tar.gz")
    command = ("build", "at_hand", "--models-dir", models.folder)
    shared(*command).refused(11, "at_hand", "--archive FILE")
    assert shared.published() == []
    ended = shared(*command, "--archive", archive).ok()
    # The first use is recorded, and the user told what to pin.
    digest = _record(shared, "at_hand")["source"]["sha256"]
    assert re.search(rf'sha256 = "{digest}"', ended.err)
    again = shared(*command).ok()
    assert "first use" not in again.err
    # The same checkpoint: export and conversion were known, only the metadata has another name.
    assert "0 stages run" in again.out


def test_another_archive_is_refused_later(
    built: tuple[Kiln, zoo.Models],
    zoo_files: dict[str, bytes],
    shared: Kiln,
    tmp_path: Path,
    project: Path,
) -> None:
    """Trust on first use: what came first at an address is what must come from there."""
    models = zoo.Models(tmp_path / "models", project)
    path = zoo.pack(zoo_files, tmp_path / "served.tar.gz")
    models.add("tofu", path)
    command = ("build", "tofu", "--models-dir", models.folder)
    shared(*command).ok()
    before = {name: (shared.dist / name).read_bytes() for name in shared.published()}
    first = _record(shared, "tofu")["source"]["sha256"]

    changed = dict(zoo_files)
    changed["pipeline.config"] += b"\n# changed\n"
    other = zoo.pack(changed, tmp_path / "other.tar.gz")
    shared(*command, "--archive", other).refused(12, "tofu", "first used")

    path.write_bytes(other.read_bytes())
    (shared.store / "blobs" / "sha256" / first[:2] / first).unlink()  # it must be fetched again
    shared(*command).refused(12, "tofu", "first used")
    assert {name: (shared.dist / name).read_bytes() for name in shared.published()} == before
    assert shared.leftovers() == []


@pytest.mark.parametrize("model", ["ssd_mobilenet_v2_320x320", "ssd_mobilenet_v2_320x320_seed"])
def test_the_real_recipes_take_only_the_real_archive(
    fresh: Kiln, zoo_files: dict[str, bytes], tmp_path: Path, model: str
) -> None:
    path = zoo.pack(
        zoo_files, tmp_path / "model.tar.gz", top="ssd_mobilenet_v2_320x320_coco17_tpu-8"
    )
    fresh("build", model, "--archive", path).refused(12, model, "not the published one")
    assert fresh.published() == []
    assert fresh.leftovers() == []
    kinds = {path.parent.name for path in (fresh.store / "refs").rglob("*.json")}
    assert kinds <= {"last-build", "stage-closures"}  # nothing of the archive is trusted


def test_a_file_inside_is_not_the_pinned_one(
    fresh: Kiln, zoo_files: dict[str, bytes], tmp_path: Path, project: Path
) -> None:
    models = zoo.Models(tmp_path / "models", project)
    size = len(zoo_files[zoo.DATA])
    pins = f'[[source.files]]\npath = "{zoo.DATA}"\nsize = {size}\nsha256 = "{"0" * 64}"\n'
    models.add("pinned", zoo.pack(zoo_files, tmp_path / "model.tar.gz"), pins=pins)
    fresh("build", "pinned", "--models-dir", models.folder).refused(12, zoo.DATA, "SHA-256")
    assert fresh.published() == []
    assert list((fresh.store / "refs" / "archive").rglob("*.json")) == []  # nothing is trusted
