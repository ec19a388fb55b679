"""CenterNet from an archive in the zoo's layout: converted, and its ready-made file adopted."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import zoo
from PIL import Image
from support import VARIANTS, Kiln, Stages, Wanted

from kiln.core.errors import KilnError
from kiln.core.stage_result import StageResult
from stages.detect import detector, matching
from stages.files import pixels
from stages.tflite import tflite_meta, tflite_model

MODEL = "random_centernet"
TOP = "centernet_random"
STATE = "checkpoint/checkpoint"
DATA = "checkpoint/ckpt-301.data-00000-of-00001"

#: As a training on another machine leaves it: absolute paths, and checkpoints that are gone.
FOREIGN_STATE = b"""\
model_checkpoint_path: "/home/somebody/training/ckpt-301"
all_model_checkpoint_paths: "/home/somebody/training/ckpt-300"
all_model_checkpoint_paths: "/home/somebody/training/ckpt-301"
"""

#: Variables of the zoo's checkpoint (`ckpt-301`) that belong to the model.
VARIABLES = 304

#: Convolution kernels in it.
KERNELS = 71


@pytest.fixture(scope="module")
def photos(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the sample images: enough to tell one normalisation from another."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("chelsea.png", "rocket.jpg"):
        _save_square(images_folder / name, folder)
    return folder


def _save_square(image: Path, folder: Path) -> None:
    """Save the middle of an image, so that there is no filling around it.

    Random weights find things in a letterbox's filling, too; the model's own post-processing does
    not look there.
    """
    square = pixels.crop(pixels.load_rgb(image), 1, 1)
    Image.fromarray(square).save(folder / f"{image.stem}.png")


@pytest.fixture(scope="module")
def made(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    """Checkpoints, and ready-made files of the first one: all that the tests start from.

    ``plain`` is what the Object Detection API's exporter makes by itself; ``shifted`` wants
    other pixels, ``inverted`` pixels that no metadata can describe; ``small`` is smaller.
    """
    config = tmp_path_factory.mktemp("config") / "pipeline.config"
    config.write_bytes(zoo.CENTERNET)
    given = {"pipeline_config": config}
    trained = {"seed": 301, "number": 301, "optimizer": True}
    whole = {"checkpoint": ("whole", "model")}
    lean = {"saved_model": ("lean", "saved_model")}  # loads faster than the package's own export
    return stages.run(
        Wanted("whole", "make_checkpoint", trained, given),
        Wanted("part", "make_checkpoint", {**trained, "only": "_feature_extractor"}, given),
        Wanted("fresh", "make_checkpoint", {**trained, "fresh": True}, given),
        Wanted("tf1", "make_tf1_checkpoint", {}, given),
        Wanted("own", "export", {"exact_batch_norm": False}, whole),
        Wanted("plain", "convert", {"variant": "float32"}, {"saved_model": ("own", "saved_model")}),
        Wanted("lean", "export", {}, whole),
        Wanted("shifted", "other_input", {"mean": 127.5, "std": 127.5}, lean),
        Wanted("inverted", "other_input", {"mean": 255.0, "std": -1.0}, lean),
        Wanted("less", "export", {"image_size": [192, 192]}, whole),
        Wanted(
            "small",
            "convert",
            {"variant": "dynamic", "plain": True},
            {"saved_model": ("less", "saved_model")},
        ),
    )


def _files(made: dict[str, StageResult], stages: Stages, name: str) -> dict[str, bytes]:
    """A model folder that ``make_checkpoint`` wrote, by path."""
    return zoo.files_of(made[name], stages.store)


def _model(made: dict[str, StageResult], stages: Stages, name: str) -> Path:
    """The ``.tflite`` of one of the made things."""
    return stages.store.path(made[name].files["model.tflite"].sha256)


@pytest.fixture(scope="module")
def files(made: dict[str, StageResult], stages: Stages) -> dict[str, bytes]:
    """The archive's content: checkpoint, configuration, state file of elsewhere, ready file."""
    content = _files(made, stages, "whole")
    assert DATA in content
    ready = _model(made, stages, "plain").read_bytes()
    return {**content, STATE: FOREIGN_STATE, "model.tflite": ready}


@pytest.fixture(scope="module")
def folder(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a model folder."""
    folder = tmp_path_factory.mktemp("model")
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def built(
    session_kiln: Kiln,
    files: dict[str, bytes],
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Kiln:
    """All four variants and the ready-made file, which the recipe pins."""
    place = tmp_path_factory.mktemp("centernet-built")
    archive = zoo.pack(files, place / "model.tar.gz", top=TOP)
    models = zoo.Models(place / "models", project)
    models.add(
        MODEL,
        archive,
        variants=(*VARIANTS, "prebuilt"),
        architecture="centernet",
        root=TOP,
        pins=_pin(files["model.tflite"]),
    )
    kiln = session_kiln.but(dist=place / "dist")
    kiln("build", "--models-dir", models.folder, timeout=900).ok()
    return kiln


def _pin(data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f'[[source.files]]\npath = "model.tflite"\nsize = {len(data)}\nsha256 = "{digest}"\n'


def _facts(kiln: Kiln, step: str) -> dict[str, Any]:
    record = json.loads((kiln.dist / MODEL / "conversion.json").read_text("utf-8"))
    facts: dict[str, Any] = record["stages"][step]["facts"]
    return facts


def _artefact(kiln: Kiln, variant: str) -> Path:
    return kiln.dist / MODEL / f"{MODEL}_{variant}.tflite"


def _metadata(path: Path) -> tflite_meta.Metadata:
    metadata = tflite_meta.read(tflite_model.read(path.read_bytes()))
    assert metadata is not None
    return metadata


# --- converted -------------------------------------------------------------------------------


def test_all_of_it(built: Kiln) -> None:
    for variant in (*VARIANTS, "prebuilt", "prebuilt_original"):
        assert f"{MODEL}/{MODEL}_{variant}.tflite" in built.published()
    facts = _facts(built, "export")
    assert facts["checkpoint"] == "ckpt-301"
    assert facts["variables"] == VARIABLES
    assert facts["num_classes"] == 90
    assert facts["input"] == {"height": 256, "width": 256}
    assert facts["max_detections"] == 20
    assert facts["exact_batch_norms"] == 55
    assert facts["untrained"] == []
    assert facts["differences"] == []
    assert built("verify", built.dist).code == 0


def test_another_input_size_is_told(made: dict[str, StageResult]) -> None:
    (told,) = made["less"].facts["differences"]
    assert (told["what"], told["config"], told["built"]) == ("input size", "256x256", "192x192")


@pytest.mark.parametrize("variant", [*VARIANTS, "prebuilt"])
def test_raw_pixels(built: Kiln, variant: str) -> None:
    """The preprocessing is in the graph, so nothing is left for whoever feeds it."""
    image = _metadata(_artefact(built, variant)).inputs[0]
    assert (set(image.mean), set(image.std)) == ({0.0}, {1.0})


def test_only_builtin_operators(built: Kiln) -> None:
    for variant in VARIANTS:
        facts = _facts(built, f"convert-{variant}")
        assert facts["custom_ops"] == []
        assert facts["inputs"][0]["dtype"] == ("uint8" if variant == "int8" else "float32")


@pytest.fixture(scope="module")
def squares(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The middle of each sample image."""
    folder = tmp_path_factory.mktemp("squares")
    for path in pixels.list_images(images_folder):
        _save_square(path, folder)
    return folder


@pytest.fixture(scope="module")
def results(
    built: Kiln, stages: Stages, folder: Path, squares: Path
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By source: ``reference`` (the checkpoint) and each variant; by image: what is found."""
    images = {"images": squares}
    ran = stages.run(
        Wanted("reference", "reference", {}, {"checkpoint": folder, **images}),
        *(
            Wanted(variant, "detect", {}, {"model": _artefact(built, variant), **images})
            for variant in (*VARIANTS, "prebuilt")
        ),
    )
    return {name: stages.json(ran[name], "detections.json")["images"] for name in ran}


@pytest.mark.parametrize("variant", ["float32", "prebuilt"])
def test_float32_is_the_checkpoint(results: dict[str, Any], variant: str) -> None:
    for name, expected in results["reference"].items():
        found = results[variant][name]
        pairs = matching.match(expected, found)
        worst = max(abs(expected[p.left]["score"] - found[p.right]["score"]) for p in pairs)
        overlap = min(pair.iou for pair in pairs)
        print(f"{variant}, {name}: IoU >= {overlap:.6f}, score difference <= {worst:.2g}")
        assert len(pairs) == len(expected) == len(found) == 20
        assert worst <= 1e-4
        assert overlap >= 0.999
        # Neither dead (one score for all, boxes without area) nor saturated.
        assert len({item["score"] for item in expected}) >= 15
        assert 0.05 < expected[-1]["score"] < expected[0]["score"] < 0.99


@pytest.mark.parametrize(("variant", "least"), [("float16", 0.9), ("dynamic", 0.5), ("int8", 0.4)])
def test_smaller_variants_agree(results: dict[str, Any], variant: str, least: float) -> None:
    """Random weights amplify rounding; a file that is wrong agrees in next to nothing."""
    values = [
        matching.agreement(expected, results[variant][name])
        for name, expected in results["reference"].items()
    ]
    mean = sum(values) / len(values)
    print(f"{variant}: agreement {mean:.3f}, of one image at least {min(values):.3f}")
    assert mean >= least


def test_int8_has_scores(results: dict[str, Any]) -> None:
    """Quantised throughout, its search for peaks finds none and every score is 0."""
    for found in results["int8"].values():
        assert len(found) == 20
        assert len({item["score"] for item in found}) > 5
        assert found[0]["score"] > 0.05


def test_int8_again_and_again(
    made: dict[str, StageResult], stages: Stages, images_folder: Path, tmp_path: Path
) -> None:
    """The quantiser orders some of what it adds by a hash table; nothing may be left to it."""
    # Other parameters that mean the same: each is a conversion of its own, not a stored result.
    raw = {"mean": [0.0] * 3, "std": [1.0] * 3}
    folder = tmp_path / "saved_model"
    stages.store.materialize(
        {
            name.removeprefix("saved_model/"): blob
            for name, blob in made["lean"].files.items()
            if name.startswith("saved_model/")
        },
        folder,
        link=False,
    )
    inputs = {"saved_model": folder, "images": images_folder}
    ran = stages.run(
        *(
            Wanted(f"again-{number}", "convert", {"variant": "int8", "normalization": norm}, inputs)
            for number, norm in enumerate((None, raw, {"std": [1] * 3, "mean": [0] * 3}))
        )
    )
    assert len({result.files["model.tflite"].sha256 for result in ran.values()}) == 1


def test_weights_are_the_checkpoint_s(built: Kiln, stages: Stages, folder: Path) -> None:
    model = _artefact(built, "float32")
    (result,) = stages.run(
        Wanted("weights", "weights_kept", {}, {"checkpoint": folder, "model": model})
    ).values()
    assert result.facts["missing"] == []
    assert result.facts["kernels"] == KERNELS == result.facts["plain"] + result.facts["folded"]


def test_in_litert(built: Kiln, results: dict[str, Any], squares: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    model = detector.load(_artefact(built, "float32"))
    for path in pixels.list_images(squares):
        found = model.detect(pixels.load_rgb(path))
        assert matching.agreement(results["reference"][path.name], found) >= 0.999


# --- adopted ---------------------------------------------------------------------------------


def test_the_original_stays(built: Kiln, files: dict[str, bytes]) -> None:
    original = _artefact(built, "prebuilt_original").read_bytes()
    assert original == files["model.tflite"]
    facts = _facts(built, "adopt")
    assert facts["original_sha256"] == hashlib.sha256(original).hexdigest()
    assert facts["original_bytes"] == len(original)
    bare, annotated = (tflite_model.read(data) for data in (
        original, _artefact(built, "prebuilt").read_bytes()))  # fmt: skip
    assert annotated.graph == bare.graph


def test_evidence(built: Kiln) -> None:
    facts = _facts(built, "adopt")
    best, *others = facts["evidence"]
    print([(item["mean"][0], item["std"][0], item["agreement"]) for item in facts["evidence"]])
    assert facts["normalization"] == {"mean": [0.0] * 3, "std": [1.0] * 3}
    assert (best["mean"], best["std"]) == ([0.0] * 3, [1.0] * 3)
    assert best["agreement"] >= 0.999
    assert len(others) >= 4
    assert max(item["agreement"] for item in others) < 0.7
    assert facts["variables"] == VARIABLES


def test_comparison(built: Kiln) -> None:
    """The same checkpoint, exported plainly and with exact batch norms."""
    facts = _facts(built, "compare-prebuilt")
    assert set(facts["images"]) == {
        path.name for path in pixels.list_images(built.project / "models/samples/images")
    }
    overall = facts["overall"]
    assert overall["pairs"] >= 20
    assert (overall["missed"], overall["extra"]) == (0, 0)
    assert overall["min_iou"] >= 0.999
    assert overall["max_score_difference"] <= 1e-4


def _adopted(stages: Stages, folder: Path, model: Path, photos: Path) -> dict[str, Any]:
    inputs = {"model": model, "checkpoint": folder, "images": photos}
    facts: dict[str, Any] = stages.run(Wanted("adopt", "adopt", {}, inputs))["adopt"].facts
    return facts


def test_another_normalisation_is_found_out(
    made: dict[str, StageResult], stages: Stages, folder: Path, photos: Path
) -> None:
    """Of an exporter with other names and another order, whose graph wants -1 to 1."""
    facts = _adopted(stages, folder, _model(made, stages, "shifted"), photos)
    assert facts["normalization"] == {"mean": [127.5] * 3, "std": [127.5] * 3}
    assert facts["evidence"][0]["agreement"] >= 0.999
    model = tflite_model.read(_model(made, stages, "shifted").read_bytes())
    outputs = {
        name: model.graph.tensors[tensor].name
        for name, tensor in model.signatures[0].outputs.items()
    }
    order = ("boxes", "classes", "scores", "count")
    assert facts["roles"] == {role: outputs[name] for role, name in zip(order, "abcd", strict=True)}


def test_another_size_and_rounding(
    made: dict[str, StageResult], stages: Stages, folder: Path, photos: Path
) -> None:
    """The file's own size counts, not that of pipeline.config; int8 weights change little."""
    facts = _adopted(stages, folder, _model(made, stages, "small"), photos)
    assert facts["input"] == {"height": 192, "width": 192, "type": "float32"}
    assert facts["normalization"] == {"mean": [0.0] * 3, "std": [1.0] * 3}
    assert facts["evidence"][0]["agreement"] < 0.999


def test_what_no_metadata_can_say_is_refused(
    made: dict[str, StageResult], stages: Stages, folder: Path, photos: Path
) -> None:
    with pytest.raises(KilnError, match="does not find what its checkpoint finds") as caught:
        _adopted(stages, folder, _model(made, stages, "inverted"), photos)
    assert caught.value.kind == "unsupported-model"


def test_another_ready_made_file_is_refused(
    files: dict[str, bytes], fresh: Kiln, project: Path, tmp_path: Path
) -> None:
    other = bytearray(files["model.tflite"])
    other[len(other) // 2] ^= 1
    models = zoo.Models(tmp_path / "models", project)
    archive = zoo.pack({**files, "model.tflite": bytes(other)}, tmp_path / "a.tar.gz", top=TOP)
    models.add(
        "swapped",
        archive,
        variants=("prebuilt",),
        architecture="centernet",
        root=TOP,
        pins=_pin(files["model.tflite"]),
    )
    fresh("build", "swapped", "--models-dir", models.folder).refused(12, "model.tflite", "SHA-256")
    assert fresh.published() == []
    assert fresh.leftovers() == []


def test_an_archive_without_the_ready_made_file(
    files: dict[str, bytes], fresh: Kiln, project: Path, tmp_path: Path
) -> None:
    without = {name: data for name, data in files.items() if name != "model.tflite"}
    models = zoo.Models(tmp_path / "models", project)
    archive = zoo.pack(without, tmp_path / "a.tar.gz", top=TOP)
    models.add("without", archive, variants=("prebuilt",), architecture="centernet", root=TOP)
    fresh("build", "without", "--models-dir", models.folder).refused(15, "without", "model.tflite")


def test_a_ready_made_file_that_is_none(
    files: dict[str, bytes], shared: Kiln, project: Path, tmp_path: Path
) -> None:
    models = zoo.Models(tmp_path / "models", project)
    page = {**files, "model.tflite": b"<!DOCTYPE html><title>404 Not Found</title>"}
    archive = zoo.pack(page, tmp_path / "a.tar.gz", top=TOP)
    models.add("page", archive, variants=("prebuilt",), architecture="centernet", root=TOP)
    shared("build", "page", "--models-dir", models.folder).refused(14, "page", "cannot be read")
    assert shared.published() == []


# --- checkpoints that do not do --------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("part", ("variables are not in it", "_prediction_head_dict")),
        ("tf1", ("TensorFlow 1 checkpoint",)),
    ],
)
def test_checkpoints(
    which: str,
    words: tuple[str, ...],
    made: dict[str, StageResult],
    stages: Stages,
    shared: Kiln,
    project: Path,
    tmp_path: Path,
) -> None:
    models = zoo.Models(tmp_path / "models", project)
    archive = zoo.pack(_files(made, stages, which), tmp_path / "a.tar.gz", top=TOP)
    name = f"centernet_{which}"
    models.add(name, archive, architecture="centernet", root=TOP)
    shared("build", name, "--models-dir", models.folder).refused(15, name, *words)
    assert shared.published() == []
    assert shared.leftovers() == []


def test_one_that_was_never_trained(
    made: dict[str, StageResult], stages: Stages, shared: Kiln, project: Path, tmp_path: Path
) -> None:
    """It converts, and finds nothing: only the user can want that, and by name."""
    models = zoo.Models(tmp_path / "models", project)
    archive = zoo.pack(_files(made, stages, "fresh"), tmp_path / "a.tar.gz", top=TOP)
    models.add("newborn", archive, architecture="centernet", root=TOP)
    command = ("build", "newborn", "--models-dir", models.folder)
    shared(*command, timeout=600).refused(18, "newborn", "initial value, -2.19", "untrained-heads")
    assert shared.published() == []
    recipe = models.folder / "newborn" / "recipe.toml"
    text = recipe.read_text().replace("[source]", 'allow = ["untrained-heads"]\n\n[source]')
    recipe.write_text(text)
    shared(*command).ok()
    record = json.loads((shared.dist / "newborn" / "conversion.json").read_text("utf-8"))
    assert len(record["untrained"]) == 1


def test_a_wrong_number_of_classes(
    files: dict[str, bytes], shared: Kiln, project: Path, tmp_path: Path
) -> None:
    changed = {
        **files,
        "pipeline.config": zoo.CENTERNET.replace(b"num_classes: 90", b"num_classes: 89"),
    }
    models = zoo.Models(tmp_path / "models", project)
    archive = zoo.pack(changed, tmp_path / "a.tar.gz", top=TOP)
    models.add("fewer", archive, architecture="centernet", root=TOP)
    shared("build", "fewer", "--models-dir", models.folder).refused(15, "fewer", "num_classes")


def test_the_real_recipe_takes_only_the_real_archive(
    fresh: Kiln, files: dict[str, bytes], tmp_path: Path
) -> None:
    model = "centernet_mobilenet_v2_fpn_512x512"
    archive = zoo.pack(files, tmp_path / "a.tar.gz", top="centernet_mobilenetv2_fpn_od")
    fresh("build", model, "--archive", archive).refused(12, DATA, "not the published file")
    assert fresh.published() == []
    # Nothing is remembered as the archive to trust.
    assert not (fresh.store / "refs" / "archive").exists()
