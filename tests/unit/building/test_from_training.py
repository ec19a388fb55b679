"""From a training's folder to a recipe, and what both commands say to arguments that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from places import ROOT
from training_folder import CONFIG, LABELS, LFS_POINTER, photo, save, written

from kiln.building import from_training
from kiln.building.from_training import Given, settle, slugify
from kiln.building.recipe_writer import recipe_text
from kiln.core.errors import (
    CheckpointError,
    ImageSetError,
    LabelMapError,
    RecipeError,
    UnsupportedModelError,
    UsageError,
)
from kiln.core.store import Store
from kiln.recipes.recipe import load
from kiln.sources.fetcher import Options
from kiln.sources.model import acquire

# --- what is filled in -----------------------------------------------------------------------


def test_what_is_filled_in(plain: Given, training: Path) -> None:
    found, notes = settle(plain)
    assert found.name == "mowen_boote"  # a folder called 'training' says nothing
    assert found.title == "mowen_boote"
    assert (found.licence, found.author, found.version) == ("NOASSERTION", "unknown", "1")
    assert (found.architecture, found.spec) == ("ssd", None)
    assert found.variants == ("dynamic", "float32", "float16")
    assert found.pipeline_config == training / "pipeline.config"
    assert [note.partition(":")[0] for note in notes] == [
        f"taking checkpoint ckpt-2, and none of the 2 others in {training}",
        "no int8",
    ]


def test_nothing_of_this_machine_gets_into_the_metadata(plain: Given, tmp_path: Path) -> None:
    found, _ = settle(plain)
    said = f"{found.title} {found.description} {found.licence} {found.author} {found.version}"
    assert str(tmp_path.parent.name) not in said
    assert "/" not in said


def test_int8_with_calibration_images(plain: Given, photos: Path) -> None:
    found, notes = settle(replace(plain, calibration=photos))
    assert found.variants == ("dynamic", "float32", "float16", "int8")
    assert (found.calibration, found.images) == (photos, None)
    assert notes[1:] == (
        "int8 is calibrated on 1 image only: about a hundred, like those that the model will see, "
        "make better scores",
    )
    for number in range(19):
        (photos / f"{number}.png").write_bytes(photo())
    assert len(settle(replace(plain, calibration=photos))[1]) == 1


def test_images_that_are_not_taken_are_counted(plain: Given, photos: Path) -> None:
    (photos / "more").mkdir()
    for name in ("two.heic", "three.HEIC", "more/four.png", "LICENCE.txt"):
        (photos / name).write_bytes(photo())
    _, notes = settle(replace(plain, images=photos, variants=("float32",)))
    assert notes[1:] == (f"of {photos}, 1 image in sub-folders and 2 .heic files are not taken",)


def test_a_damaged_image_is_found_before_a_recipe_is_written(plain: Given, photos: Path) -> None:
    (photos / "two.png").write_bytes(photo("")[:40])
    with pytest.raises(ImageSetError, match=r"two\.png cannot be used: it is cut short"):
        settle(replace(plain, calibration=photos))


def test_int8_with_images_for_checks_says_so(plain: Given, photos: Path) -> None:
    found, notes = settle(replace(plain, images=photos))
    assert "int8" in found.variants
    assert (found.calibration, found.images) == (photos, photos)
    assert notes[-2] == f"int8 is calibrated on the images in {photos} (no --calibration)"


def test_int16x8_is_only_made_when_it_is_named(plain: Given, photos: Path) -> None:
    with pytest.raises(UsageError, match="Variant 'int16x8' needs images to measure"):
        settle(replace(plain, variants=("int16x8",)))
    found, notes = settle(replace(plain, images=photos, variants=("int16x8", "int8")))
    assert (found.variants, found.calibration) == (("int16x8", "int8"), photos)
    assert notes[-2] == (
        f"int8 and int16x8 are calibrated on the images in {photos} (no --calibration)"
    )
    assert notes[-1].startswith("int8 and int16x8 are calibrated on 1 image only")


def test_variants_by_name(plain: Given, photos: Path) -> None:
    found, notes = settle(replace(plain, images=photos, variants=("float32", "float32")))
    assert (found.variants, found.calibration, found.images) == (("float32",), None, photos)
    assert len(notes) == 1


def test_a_file_of_a_checkpoint_stands_for_it(plain: Given, training: Path) -> None:
    for name in ("ckpt-3.index", "ckpt-3.data-00000-of-00001"):
        found, notes = settle(replace(plain, checkpoint=training / name))
        assert found.checkpoint == training / "ckpt-3"
        assert "taking" not in "".join(notes)


def test_a_folder_stands_for_its_pipeline_config(plain: Given, training: Path) -> None:
    found, _ = settle(replace(plain, pipeline_config=training))
    assert found.pipeline_config == training / "pipeline.config"


def test_pipeline_config_beside_an_exported_checkpoint(plain: Given, tmp_path: Path) -> None:
    save(tmp_path / "boats" / "checkpoint", "ckpt-0")
    (tmp_path / "boats" / "pipeline.config").write_text(CONFIG)
    for checkpoint in ("boats", "boats/checkpoint"):
        found, _ = settle(replace(plain, checkpoint=tmp_path / checkpoint))
        assert (found.name, found.pipeline_config) == (
            "boats",
            tmp_path / "boats" / "pipeline.config",
        )


def test_model_maker(plain: Given, training: Path) -> None:
    (training / "pipeline.config").unlink()
    found, _ = settle(replace(plain, spec="efficientdet_lite2"))
    assert (found.architecture, found.spec) == ("efficientdet", "efficientdet_lite2")
    assert found.pipeline_config is None


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Run 7", "run_7"),
        ("ÅNGSTRÖM", "angstrom"),
        ("--x--", "x"),
        ("a/b", "a_b"),
        ("模型", ""),
        ("...", ""),
        ("a" * 300, "a" * 100),
    ],
)
def test_names(text: str, slug: str) -> None:
    assert slugify(text) == slug


def test_a_folder_whose_name_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert from_training._name(None, None, Path("/模型/training")) == "model"


# --- what is refused -------------------------------------------------------------------------


def test_arguments_that_are_wrong(plain: Given, training: Path, photos: Path) -> None:
    empty = photos.parent / "empty"
    empty.mkdir()
    config = training / "pipeline.config"
    for changes, error, words in (
        ({"variants": ("int8",)}, UsageError, "needs images to measure"),
        ({"variants": ("prebuilt",)}, UsageError, "a checkpoint does not have"),
        ({"variants": ("float23",)}, UsageError, "'float23'"),
        ({"float_layers": ("a",)}, UsageError, "--float-layer has no effect"),
        ({"float_layers": ("",), "calibration": photos}, UsageError, "needs the name of a layer"),
        ({"spec": "efficientdet_lite9"}, UsageError, "'efficientdet_lite9'"),
        (
            {"spec": "efficientdet_lite0", "pipeline_config": config},
            UsageError,
            "cannot be combined",
        ),
        ({"name": "Boats!"}, UsageError, "not a valid model name"),
        ({"allow": ("everything",)}, UsageError, "'everything'"),
        ({"calibration": empty}, ImageSetError, "no images in .*empty"),
        ({"images": photos / "nowhere"}, ImageSetError, "nowhere does not exist"),
        ({"label_map": photos / "absent.pbtxt"}, LabelMapError, r"absent\.pbtxt"),
        ({"label_map": config}, LabelMapError, "pipeline.config"),
        ({"pipeline_config": photos / "p.config"}, CheckpointError, "no pipeline.config at"),
        (
            {"checkpoint": photos / "nowhere" / "x"},
            CheckpointError,
            "neither a folder nor a checkpoint",
        ),
        ({"checkpoint": empty}, CheckpointError, "is empty"),
    ):
        with pytest.raises(error, match=words) as caught:
            settle(replace(plain, **changes))  # type: ignore[arg-type]
        assert caught.value.remedy, words


@pytest.mark.parametrize(
    "name", ["ckpt-2.index", "ckpt-2.data-00000-of-00001", "pipeline.config", "labels.pbtxt"]
)
def test_a_pointer_is_never_pinned(plain: Given, training: Path, name: str) -> None:
    (training / name).write_text(LFS_POINTER)
    with pytest.raises((CheckpointError, LabelMapError), match="is a Git LFS pointer") as caught:
        settle(plain, pin=True)
    assert f"{training / name}" in caught.value.message
    assert "git lfs pull" in caught.value.remedy


def test_no_pipeline_config(plain: Given, training: Path) -> None:
    (training / "pipeline.config").unlink()
    with pytest.raises(UsageError, match=r"no pipeline\.config beside") as caught:
        settle(plain)
    assert "--model-maker" in caught.value.remedy


def test_an_architecture_that_cannot_be(plain: Given, training: Path) -> None:
    (training / "pipeline.config").write_text("model { faster_rcnn { number_of_stages: 2 } }")
    with pytest.raises(UnsupportedModelError, match=r"Faster R-CNN cannot be converted: it crops"):
        settle(plain)


def test_a_label_map_of_another_model(plain: Given, training: Path) -> None:
    more = "".join(f"item {{ id: {number} name: 'emu' }}\n" for number in (3, 4, 5))
    (training / "labels.pbtxt").write_text(LABELS + more)
    with pytest.raises(LabelMapError, match=r"5 items .* the model has 2 classes"):
        settle(plain)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + "item { id: 3 name: 'emu' }\n", "can never find 'emu' (id 3)"),
        ("item { id: 1 name: 'cat' }", "class 2 will be shown as ???"),
        ("background\ncat\ndog\n", "a plain list of names: taken as classes 1 to 2"),
    ],
)
def test_what_is_said_of_a_label_map(
    plain: Given, training: Path, tmp_path: Path, labels: str, words: str
) -> None:
    (training / "labels.pbtxt").write_text(labels)
    arguments, notes = settle(plain)
    assert len([note for note in notes if words in note]) == 1
    told: list[str] = []
    recipe = written(arguments, tmp_path / "models" / arguments.name / "recipe.toml")
    acquire(recipe, Store(tmp_path / "store"), Options(on_note=told.append))
    # In the same words: a conversion, which does both, says it once.
    same = {f"{recipe.name}: {note}" for note in notes} & set(told)
    assert len([note for note in same if words in note]) == 1


def test_a_centernet_suppresses_nothing(plain: Given, training: Path) -> None:
    (training / "pipeline.config").write_text(
        'model { center_net { num_classes: 2 feature_extractor { type: "mobilenet_v2_fpn" } '
        "image_resizer { fixed_shape_resizer { } } object_detection_task { } } }"
    )
    settle(plain)
    with pytest.raises(UsageError, match="--nms-iou-threshold has no effect: a CenterNet"):
        settle(replace(plain, nms_iou_threshold=0.5))


@pytest.mark.parametrize(
    "extractor", ["ssd_resnet50_v1_fpn_keras", "ssd_efficientnet-b0_bifpn_keras"]
)
def test_channels_that_differ_have_no_int8_input(
    plain: Given, training: Path, photos: Path, extractor: str
) -> None:
    asked = replace(plain, inference_io="int8", calibration=photos)
    assert settle(asked)[0].inference_io == "int8"
    path = training / "pipeline.config"
    path.write_text(CONFIG.replace("ssd_mobilenet_v2_keras", extractor))
    with pytest.raises(UsageError, match="normalises each colour channel differently"):
        settle(asked)


# --- the commands ----------------------------------------------------------------------------


@pytest.fixture
def kiln(tmp_path: Path):  # type: ignore[no-untyped-def]
    def run(*arguments: str | Path, code: int = 0) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "scripts"),
            "HOME": str(tmp_path / "home"),
            "KILN_PROJECT": str(ROOT),
            "KILN_STORE": str(tmp_path / "store"),
            "DOCKER_HOST": "unix:///nonexistent",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "kiln.cli", *map(str, arguments)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in ended.stderr, ended.stderr
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    return run


def test_init_and_what_it_says(kiln, training: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("--checkpoint", training, "--label-map", training / "labels.pbtxt")
    said = kiln("init", *options, "-o", "models/boats")
    assert "models/boats/recipe.toml written." in said
    assert "build boats --models-dir models" in said
    assert "taking checkpoint ckpt-2" in said
    path = tmp_path / "models" / "boats" / "recipe.toml"
    before = path.read_bytes()
    assert [item.name for item in path.parent.iterdir()] == ["recipe.toml"]
    assert "There is a recipe already" in kiln("init", *options, "-o", "models/boats", code=2)
    assert path.read_bytes() == before
    kiln("init", *options, "-o", "models/boats", "--force", "--no-pin", "--title", "Boats")
    assert load(path).title == "Boats"
    (event,) = [
        json.loads(line)
        for line in kiln("init", *options, "-o", "models/b", "--json").splitlines()
        if '"recipe"' in line
    ]
    assert (event["model"], event["path"]) == ("b", "models/b/recipe.toml")


def test_init_where_nothing_can_be_written(kiln, training: Path) -> None:  # type: ignore[no-untyped-def]
    options = ("--checkpoint", training, "--label-map", training / "labels.pbtxt")
    kiln("init", *options, "-o", training / "labels.pbtxt" / "boats", code=2)
    assert "cannot be written" in kiln("init", *options, "-o", "/proc/boats", code=2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Missing option"),
        (("--image-size", "320"), 2, "'320' is not an image size"),
        (("--image-size", "16x320"), 2, "'16x320' is not an image size"),
        (("--max-detections", "0"), 2, "--max-detections"),
        (("--score-threshold", "1.5"), 2, "--score-threshold"),
        (("--score-threshold", "nan"), 2, "--score-threshold"),
        (("--output-order", "tf3"), 2, "--output-order"),
        (("--nms-score-threshold", "-0.1"), 2, "--nms-score-threshold"),
        (("--nms-iou-threshold", "0"), 2, "--nms-iou-threshold"),
        (("--nms-iou-threshold", "nan"), 2, "--nms-iou-threshold"),
        (("--max-detections-per-class", "5"), 2, "add --regular-nms"),
        (("--inference-io", "int8"), 2, "name --calibration images"),
        (("--variant", "int8"), 2, "--calibration"),
        (("--float-layer", "net/conv"), 2, "Leave it out, or name --calibration images."),
        (("--float-layer", "a", "--variant", "float32"), 2, "or add --variant int8."),
        (("--name", "A b"), 2, "'a_b' is a valid name"),
        (("--checkpoint", "nowhere/ckpt-1"), 15, "neither a folder nor a checkpoint"),
        (("--label-map", "absent.pbtxt"), 16, "absent.pbtxt"),
        (("-o", "thesis"), 2, "thesis.tex"),
        (("-o", "thesis/thesis.tex"), 2, "is not a folder"),
        # What the system refuses to look at, whoever asks.
        (("--checkpoint", "x" * 300), 15, "cannot be read: File name too long"),
        (("--label-map", "x" * 300), 15, "cannot be read: File name too long"),
        (("--pipeline-config", "x" * 300), 15, "cannot be read: File name too long"),
        (("--calibration", "x" * 300), 15, "cannot be read: File name too long"),
        (("-o", "x" * 300), 15, "cannot be read: File name too long"),
    ],
)
def test_convert_refuses(  # type: ignore[no-untyped-def]
    kiln, training: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    """Before any engine is asked for (there is none)."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    options = ["--checkpoint", training, "--label-map", training / "labels.pbtxt", "-o", "out"]
    assert words in kiln("convert", *(options if arguments else []), *arguments, code=code)
    assert not (tmp_path / "out").exists()


def test_convert_goes_the_way_of_a_build(kiln, training: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """As far as an engine: found in order, and nothing left behind."""
    options = ("--checkpoint", training, "--label-map", training / "labels.pbtxt", "-o", "out")
    said = kiln("convert", *options, code=20)
    assert said.count("taking checkpoint ckpt-2") == 1
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_recipe_that_was_edited_badly_is_told_by_its_name(plain: Given, tmp_path: Path) -> None:
    folder = tmp_path / "boats"
    arguments, _ = settle(plain, folder=folder)
    text = recipe_text(arguments).replace("checkpoint =", "checkpiont =")
    folder.mkdir()
    (folder / "recipe.toml").write_text(text)
    with pytest.raises(RecipeError, match="did you mean 'checkpoint'"):
        load(folder / "recipe.toml")
