"""EfficientDet-Lite by Model Maker: from weights, and the way of 2021, in the sealed image."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import VARIANTS, Kiln, Stages, Wanted, iou

from kiln.core.errors import CheckpointError
from kiln.core.stage_result import StageResult
from stages.detect import detector, matching
from stages.files import pixels
from stages.tflite import packed_files, tflite_meta, tflite_model

SPEC = "efficientdet_lite0"
SIZE = [128, 128]
PARAMS = {"spec": SPEC, "image_size": SIZE}

#: Of automl's net with heads, and how many of its layers are batch norms.
VARIABLES, BATCH_NORMS = 588, 108

#: Each kind of checkpoint by the layout that make_lite_checkpoint knows it by.
KINDS = {
    "tf2": "tf2",
    "tf2-model": "tf2",
    "tf1": "tf1",
    "tf1-ema": "tf1-ema",
    "training": "training",
}

#: Its own data loader's: normalised, scaled, padded with zeros.
FEEDING = {
    "fit": "letterbox",
    "anchor": "top-left",
    "fill": [127.0] * 3,
    "sampling": "half-pixel",
    "interpolation": "bilinear",
}

Detections = dict[str, list[dict[str, Any]]]
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(lite_stages: Stages, images_folder: Path) -> dict[str, StageResult]:
    """A hub module, and the same weights in every layout; one net without trained heads."""
    images = {"images": images_folder}
    sized = {"seed": 11, "image_size": SIZE}
    layouts = [*KINDS, "tf1-part", "backbone"]
    module = {"hub_module": ("hub", "module"), **images}
    return lite_stages.run(
        Wanted("hub", "make_hub_module", sized, images),
        Wanted("weights", "make_lite_checkpoint", {**sized, "layouts": layouts}, module),
        Wanted("fresh", "make_lite_checkpoint", {**sized, "fresh_heads": True}, images),
    )


@pytest.fixture(scope="module")
def folder(
    made: dict[str, StageResult], lite_stages: Stages, tmp_path_factory: pytest.TempPathFactory
) -> Folder:
    """A folder that a stage made, by ``<stage id>/<path>``, laid out on the host."""
    place = tmp_path_factory.mktemp("lite")

    def lay_out(path: str) -> Path:
        step, _, below = path.partition("/")
        target = place / path
        if not target.exists():
            files = {
                name.removeprefix(f"{below}/"): blob
                for name, blob in made[step].files.items()
                if name.startswith(f"{below}/")
            }
            assert files, f"{step} made nothing in {below}"
            lite_stages.store.materialize(files, target, link=False)
        return target

    return lay_out


@pytest.fixture(scope="module")
def ran(
    lite_stages: Stages, folder: Folder, images_folder: Path, tmp_path_factory: Any
) -> dict[str, StageResult]:
    """One export, every variant of it converted, annotated and run; and the net itself."""
    checkpoint, images = {"checkpoint": folder("weights/tf2")}, {"images": images_folder}
    labels = tmp_path_factory.mktemp("labels") / "label_map.pbtxt"
    labels.write_text("".join(f"item {{ id: {n} name: 'thing {n}' }}\n" for n in range(1, 6)))
    wanted = [
        Wanted("export", "modelmaker_export", PARAMS, checkpoint),
        Wanted("reference", "modelmaker_reference", PARAMS, {**checkpoint, **images}),
    ]
    about = {
        "architecture": "efficientdet",
        "num_classes": 5,
        "normalization": {"mean": [127.0] * 3, "std": [128.0] * 3},
        "feeding": FEEDING,
    }
    for variant in sorted(VARIANTS, key=lambda variant: variant != "float32"):
        converted, annotated = f"convert-{variant}", f"annotate-{variant}"
        floats = {"float32": ("convert-float32", "model.tflite")} if variant == "dynamic" else {}
        wanted += [
            Wanted(
                converted,
                "convert",
                {"variant": variant, "feeding": FEEDING},
                {"saved_model": ("export", "saved_model"), **images, **floats},
            ),
            Wanted(
                annotated,
                "annotate",
                about,
                {"model": (converted, "model.tflite"), "label_map": labels},
            ),
            Wanted(variant, "detect", {}, {"model": (annotated, "model.tflite"), **images}),
        ]
    wanted.append(
        Wanted(
            "kept",
            "lite_weights_kept",
            PARAMS,
            {**checkpoint, "model": ("convert-float32", "model.tflite")},
        )
    )
    return lite_stages.run(*wanted)


@pytest.fixture(scope="module")
def found(ran: dict[str, StageResult], lite_stages: Stages) -> dict[str, Detections]:
    """What each variant finds, and the ``reference``."""
    results = {v: lite_stages.json(ran[v], "detections.json")["images"] for v in VARIANTS}
    reference = lite_stages.json(ran["reference"], "detections.json")
    return {**results, "reference": reference["as_tflite"], "own": reference["images"]}


# --- what an export says and makes -------------------------------------------------------------


def test_what_the_export_says(ran: dict[str, StageResult]) -> None:
    facts = ran["export"].facts
    assert facts == {
        "architecture": "efficientdet",
        "spec": SPEC,
        "num_classes": 5,
        "input": {"height": 128, "width": 128},
        "max_detections": 25,
        "nms_score_threshold": None,
        "nms_iou_threshold": 0.5,
        "suppression": {
            "regular": False,
            "score_threshold": None,
            "iou_threshold": 0.5,
            "detections_per_class": 100,
        },
        "normalization": {"mean": [127.0] * 3, "std": [128.0] * 3},
        "feeding": FEEDING,
        "checkpoint": "ckpt-0",
        "checkpoint_kind": "tf2",
        "variables": VARIABLES,
        "exact_batch_norms": BATCH_NORMS,
        "untrained": [],
        "differences": [
            {
                "what": "input size",
                "config": "320x320",
                "built": "128x128",
                "effect": "Objects appear in another size than in training: the further from it,"
                " the lower the scores.",
            }
        ],
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_anywhere(ran: dict[str, StageResult], variant: str) -> None:
    facts = ran[f"convert-{variant}"].facts
    assert facts["custom_ops"] == ["TFLite_Detection_PostProcess"]
    assert not [name for name in facts["ops"] if name.startswith("Flex")]
    assert facts["tensorflow"] == "2.8.4"
    assert facts["inputs"][0]["dtype"] == ("uint8" if variant == "int8" else "float32")


def test_weights_are_the_checkpoints(ran: dict[str, StageResult]) -> None:
    facts = ran["kept"].facts
    assert facts["missing"] == []
    assert (facts["kernels"], facts["last_biases"]) == (118, 2)
    assert facts["shifts"] == BATCH_NORMS


# --- what artefacts find -----------------------------------------------------------------------


def _agreement(reference: Detections, found: Detections) -> tuple[int, int, float, float]:
    """(boxes of the reference, with a counterpart, its largest score and side difference)."""
    count, same, score, side = 0, 0, 0.0, 0.0
    for name, items in reference.items():
        for item in items:
            count += 1
            others = [one for one in found[name] if one["class_id"] == item["class_id"]]
            best = max(others, key=lambda one: iou(item["box"], one["box"]), default=None)
            if best is None or iou(item["box"], best["box"]) < 0.9:
                continue
            same += 1
            score = max(score, abs(item["score"] - best["score"]))
            pairs = zip(item["box"], best["box"], strict=True)
            side = max(side, max(abs(one - other) for one, other in pairs))
    return count, same, score, side


def test_float32_is_the_checkpoint(found: dict[str, Detections]) -> None:
    count, same, score, side = _agreement(found["reference"], found["float32"])
    print(f"float32: {same} of {count} boxes, score {score:.2g}, side {side:.2g}")
    assert same == count >= 100
    assert score <= 1e-4
    assert side <= 5e-4


def test_float16_agrees(found: dict[str, Detections]) -> None:
    count, same, score, _ = _agreement(found["reference"], found["float16"])
    print(f"float16: {same} of {count} boxes, score {score:.2g}")
    # Random weights amplify every rounding; the samples' tests judge trained ones.
    assert same >= 0.7 * count
    assert score <= 0.03


def test_the_nets_own_post_processing_finds_the_same_best(found: dict[str, Detections]) -> None:
    """It lowers scores of overlapping boxes, so only the best of an image is as it was."""
    for name, every in found["own"].items():
        # Random weights find things in a letterbox's filling, too; the other lists do without.
        items = [item for item in every if item["box"][0] < 1 and item["box"][1] < 1]
        best = found["reference"][name][0]
        assert items[0]["class_id"] == best["class_id"]
        assert abs(items[0]["score"] - best["score"]) <= 1e-4


# --- the same bytes ----------------------------------------------------------------------------


def test_float16_repeats(ran: dict[str, StageResult], lite_stages: Stages, tmp_path: Path) -> None:
    """TensorFlow 2.8 numbers tensors by process; stages.tflite.dequantize_order sorts them."""
    store = lite_stages.store
    folder = tmp_path / "saved_model"
    files = {name.removeprefix("saved_model/"): blob for name, blob in ran["export"].files.items()}
    store.materialize(files, folder, link=False)
    first = ran["convert-float16"].files["model.tflite"].sha256
    for number in range(2):
        # Another key, so that it runs: an image set that float16 does not look at.
        other = tmp_path / f"other{number}"
        other.mkdir()
        (other / "note.txt").write_text(str(number))
        again = lite_stages.run(
            Wanted(
                "again", "convert", {"variant": "float16"}, {"saved_model": folder, "images": other}
            )
        )
        assert again["again"].files["model.tflite"].sha256 == first


# --- checkpoints -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds(lite_stages: Stages, folder: Folder) -> dict[str, StageResult]:
    """Every kind of checkpoint exported; ``training`` with other options of suppression."""
    params: dict[str, dict[str, Any]] = dict.fromkeys(KINDS, PARAMS)
    params["training"] = {**PARAMS, "regular_nms": True, "nms_score_threshold": 0.05}
    return lite_stages.run(
        *[
            Wanted(kind, "modelmaker_export", own, {"checkpoint": folder(f"weights/{kind}")})
            for kind, own in params.items()
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_told_and_whole(kinds: dict[str, StageResult], kind: str) -> None:
    facts = kinds[kind].facts
    assert facts["checkpoint_kind"] == KINDS[kind]
    assert (facts["num_classes"], facts["variables"]) == (5, VARIABLES)


def test_one_net_whatever_the_layout(kinds: dict[str, StageResult]) -> None:
    """The averages are the weights; the plain variables beside them hold something else."""
    graphs = {
        kind: result.files["saved_model/saved_model.pb"].sha256
        for kind, result in kinds.items()
        if kind != "training"  # the hub module's statistics were measured on their own
    }
    assert len(set(graphs.values())) == 1, graphs


def test_options_of_suppression_are_in_the_graph(
    kinds: dict[str, StageResult], lite_stages: Stages
) -> None:
    """As attributes of the function that stands for the operator, in protobuf's encoding."""
    for kind, regular, least in (("training", 1, 0.05), ("tf2", 0, float("-inf"))):
        blob = kinds[kind].files["saved_model/saved_model.pb"]
        graph = lite_stages.store.path(blob.sha256).read_bytes()
        # Field 5 of AttrValue is a bool, field 4 a float.
        assert b"\n\x0fuse_regular_nms\x12\x02\x28" + bytes([regular]) in graph
        threshold = struct.pack("<f", least)
        assert b"\n\x13nms_score_threshold\x12\x05\x25" + threshold in graph


def test_a_trained_model_answers_the_same(lite_stages: Stages, folder: Folder) -> None:
    """What Model Maker's own model of a training answers, and the net restored from it."""
    inputs = {"checkpoint": folder("weights/training")}
    facts = lite_stages.run(Wanted("same", "same_answers", PARAMS, inputs))["same"].facts
    assert facts["checkpoint_kind"] == "training"
    assert facts["spread"] > 0.1
    assert facts["difference"] <= 1e-5 * max(1.0, facts["spread"])


def test_untrained_heads_are_told(lite_stages: Stages, folder: Folder) -> None:
    inputs = {"checkpoint": folder("fresh/tf2")}
    facts = lite_stages.run(Wanted("export", "modelmaker_export", PARAMS, inputs))["export"].facts
    assert "45 biases of the class head" in facts["untrained"][0]
    assert "36 biases of the box head" in facts["untrained"][1]


@pytest.mark.parametrize(
    ("path", "spec", "words"),
    [
        ("weights/tf1-part", SPEC, ("not in it", "box_net/box-predict/bias")),
        ("weights/backbone", SPEC, ("no class prediction head", "class_net/classes")),
        ("weights/tf2", "efficientdet_lite1", ("64 wide", SPEC, "pointwise_kernel", "88")),
        ("weights/tf1-ema", "efficientdet_lite3", ("64 wide", SPEC, "160")),
        ("hub/module", SPEC, ("SavedModel", "hub")),
    ],
)
def test_refused(
    lite_stages: Stages, folder: Folder, path: str, spec: str, words: tuple[str, ...]
) -> None:
    _refused(
        lite_stages,
        Wanted("bad", "modelmaker_export", {**PARAMS, "spec": spec}, {"checkpoint": folder(path)}),
        *words,
    )


def test_a_checkpoint_of_the_other_image_is_refused(
    lite_stages: Stages, zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in zoo_files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    wanted = Wanted("bad", "modelmaker_export", PARAMS, {"checkpoint": tmp_path})
    _refused(lite_stages, wanted, "Object Detection API", "pipeline.config")


def test_keras_own_format_is_refused(lite_stages: Stages, tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    wanted = Wanted("bad", "modelmaker_export", PARAMS, {"checkpoint": tmp_path})
    _refused(lite_stages, wanted, "weights.h5", "save_format")


def _refused(stages: Stages, wanted: Wanted, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        stages.run(wanted)
    message = f"{caught.value} {caught.value.remedy}"
    assert "Traceback" not in message
    for word in words:
        assert word in message


# --- the way of 2021 ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def label_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seed") / "label_map.pbtxt"
    path.write_text("item { id: 1 name: 'cat' }\nitem { id: 4 name: 'cup' }\n")
    return path


def _seed(seed: int, module: Path, images: Path, labels: Path, size: Any = SIZE) -> Wanted:
    return Wanted(
        f"seed-{seed}",
        "modelmaker_seed",
        {"spec": SPEC, "seed": seed, "image_size": size},
        {"hub_module": module, "images": images, "label_map": labels},
    )


@pytest.fixture(scope="module")
def seeded(
    lite_stages: Stages, folder: Folder, images_folder: Path, label_map: Path
) -> StageResult:
    wanted = _seed(1, folder("hub/module"), images_folder, label_map)
    return lite_stages.run(wanted)[wanted.id]


def test_seed_says_that_it_is_untrained(seeded: StageResult, lite_stages: Stages) -> None:
    facts = seeded.facts
    assert len(facts["untrained"]) >= 2
    assert "initial value" in facts["untrained"][0]
    assert facts["num_classes"] == 4
    assert facts["normalization"] == {"mean": [127.0], "std": [128.0]}
    data = lite_stages.model(seeded)
    metadata = tflite_meta.read(tflite_model.read(data))
    assert metadata is not None
    assert tflite_meta.labels(data, metadata) == ["cat", "???", "???", "cup"]
    assert packed_files.canonical(data) == data


@pytest.mark.nightly  # two more of the longest stage
def test_seed_repeats(
    seeded: StageResult, lite_stages: Stages, folder: Folder, images_folder: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "label_map.pbtxt"  # the same labels, told otherwise: another key
    labels.write_text("item { name: 'cat' id: 1 }\nitem { name: 'cup' id: 4 }\n")
    same, other = (_seed(seed, folder("hub/module"), images_folder, labels) for seed in (1, 2))
    ran = lite_stages.run(same, other)  # the second in a process that is not fresh
    assert ran["seed-1"].files["model.tflite"] == seeded.files["model.tflite"]
    assert ran["seed-2"].files["model.tflite"] != seeded.files["model.tflite"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"kind": "heads"}, ("prediction heads already",)),
        pytest.param(
            {"kind": "backbone"}, ("two lists of 5 feature maps",), marks=pytest.mark.nightly
        ),
        pytest.param(
            {"spec": "efficientdet_lite1"},
            ("88 wide", "efficientdet_lite1", "64"),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_bad_hub_modules(
    lite_stages: Stages,
    images_folder: Path,
    label_map: Path,
    params: dict[str, str],
    words: tuple[str, ...],
) -> None:
    images = {"images": images_folder}
    made = {"seed": 3, "image_size": SIZE, **params}
    wanted = _seed(1, Path(), images_folder, label_map)
    with pytest.raises(CheckpointError) as caught:
        lite_stages.run(
            Wanted("hub", "make_hub_module", made, images),
            Wanted(
                wanted.id,
                wanted.stage,
                wanted.params,
                {**wanted.inputs, "hub_module": ("hub", "module")},
            ),
        )
    for word in words:
        assert word in str(caught.value)


def test_no_hub_module(
    lite_stages: Stages, images_folder: Path, label_map: Path, tmp_path: Path
) -> None:
    (tmp_path / "keras_metadata.pb").write_bytes(b"")
    wanted = _seed(1, tmp_path, images_folder, label_map)
    _refused(lite_stages, wanted, "no saved_model.pb", "feature-vector")


def test_damaged_hub_module(
    lite_stages: Stages, images_folder: Path, label_map: Path, tmp_path: Path
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 64)
    wanted = _seed(1, tmp_path, images_folder, label_map)
    _refused(lite_stages, wanted, "cannot be loaded", "feature-vector")


# --- without a recipe ----------------------------------------------------------------------------


def test_converted_without_a_recipe(
    session_kiln: Kiln,
    folder: Folder,
    found: dict[str, Detections],
    images_folder: Path,
    tmp_path: Path,
) -> None:
    """``kiln convert`` of automl's own checkpoint, which holds the weights of every other kind."""
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("".join(f"item {{ id: {n} name: 'thing {n}' }}\n" for n in range(1, 6)))
    kiln = session_kiln.but(dist=tmp_path / "release")
    options = ["--label-map", labels, "--model-maker", SPEC, "--image-size", "128x128"]
    given = ["--checkpoint", folder("weights/tf1-ema"), "--name", "lite", "--variant", "float32"]
    kiln("convert", *given, *options, "-o", kiln.dist).ok()
    assert kiln("verify", kiln.dist).code == 0
    model = detector.load(kiln.dist / "lite" / "lite_float32.tflite")
    for name, expected in found["float32"].items():
        best = [item for item in expected if item["score"] >= 0.2]
        mine = model.detect(pixels.load_rgb(images_folder / name))
        pairs = matching.match(best, mine, 0.95)
        assert len(pairs) == len(best)
        for pair in pairs:
            assert mine[pair.right]["score"] == pytest.approx(best[pair.left]["score"], abs=1e-3)
