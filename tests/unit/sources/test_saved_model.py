"""Models of which there is only a SavedModel: its files, its recipe, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_folder import CONFIG, LABELS, LFS_POINTER, save

from kiln.building.from_training import Given, settle
from kiln.building.recipe_writer import recipe_text
from kiln.cli.common import channel_values
from kiln.core.errors import (
    CheckpointError,
    DigestMismatchError,
    KilnError,
    LabelMapError,
    RecipeError,
    UsageError,
)
from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.recipes.contents import Contents
from kiln.recipes.plan import Fact, Files, Output, Plan, make_plan
from kiln.recipes.recipe import Recipe, load
from kiln.recipes.source import SavedModelSource
from kiln.sources.fetcher import Options
from kiln.sources.model import acquire, source_at_hand
from kiln.sources.saved_model import find_saved_model

SSD = b"... TFLite_Detection_PostProcess ..."
FACTS = '{"normalization": {"mean": [0, 0, 0], "std": [1, 1, 1]}}'
SPEC = "efficientdet_lite0"


def export(folder: Path, graph: bytes = SSD) -> Path:
    """A folder with a SavedModel's files, none of them real."""
    save(folder / "variables", "variables")
    (folder / "saved_model.pb").write_bytes(graph)
    (folder / "fingerprint.pb").write_bytes(b"of no use here")
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return export(tmp_path / "Möwen" / "saved_model")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.pbtxt"
    path.write_text(LABELS)
    return path


@pytest.fixture
def given(saved: Path, labels: Path) -> Given:
    return Given(None, labels, saved_model=saved)


def written(given: Given, folder: Path, *, pin: bool = False) -> Recipe:
    """The recipe of ``kiln init`` (in ``folder``), read back."""
    arguments, _ = settle(given, folder=folder, pin=pin)
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(recipe_text(arguments), encoding="utf-8")
    return load(folder / "recipe.toml")


# --- files -----------------------------------------------------------------------------------

WHOLE = ["saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"]


def test_what_tensorflow_reads_and_nothing_else(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    assert list(find_saved_model(saved).files) == WHOLE
    (saved / "assets").mkdir()
    (saved / "assets" / "words.txt").write_text("one")
    (saved / "assets.extra").mkdir()
    (saved / "assets.extra" / "export.json").write_text(FACTS)
    (saved / "assets.extra" / "other.json").write_text("{}")
    extra = ["assets.extra/export.json", "assets/words.txt"]
    assert list(find_saved_model(saved).files) == [*extra, *WHOLE]


@pytest.mark.parametrize("path", ["Möwen", "Möwen/saved_model", "Möwen/saved_model/saved_model.pb"])
def test_however_it_is_named(saved: Path, tmp_path: Path, path: str) -> None:
    assert find_saved_model(tmp_path / path).folder == saved


@pytest.mark.parametrize("name", ["assets/key", "variables/variables.data-00001-of-00002"])
def test_a_link_out_of_the_folder_brings_nothing(saved: Path, tmp_path: Path, name: str) -> None:
    """Its graph could say in its answers what is in a file of this machine."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"of this machine")
    first = saved / "variables" / "variables.data-00000-of-00001"
    if "variables" in name:
        first.rename(first.with_name("variables.data-00000-of-00002"))
    place = saved / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(secret)
    with pytest.raises(CheckpointError, match="leads out of the SavedModel's folder"):
        find_saved_model(saved)
    place.unlink()
    (saved / "assets").mkdir(exist_ok=True)
    inside = saved / "assets" / "vocabulary"
    inside.write_bytes(b"its own")
    place.symlink_to(inside)
    assert name in find_saved_model(saved).files
    link = tmp_path / "link"
    link.symlink_to(saved)
    assert name in find_saved_model(link).files, "the folder itself is the user's word"


def test_which_architecture(saved: Path, tmp_path: Path) -> None:
    assert find_saved_model(saved).architecture == "ssd"
    assert find_saved_model(export(tmp_path / "c", b"heat maps")).architecture == "centernet"
    assert find_saved_model(export(tmp_path / "e", b"")).architecture == "ssd"


def _no_variables(folder: Path) -> None:
    (folder / "variables" / "variables.index").unlink()


def _half(folder: Path) -> None:
    (folder / "variables" / "variables.data-00000-of-00001").unlink()


def _no_graph(folder: Path) -> None:
    (folder / "saved_model.pb").unlink()


def _as_text(folder: Path) -> None:
    (folder / "saved_model.pb").rename(folder / "saved_model.pbtxt")


def _a_checkpoint(folder: Path) -> None:
    _no_graph(folder)
    save(folder, "ckpt-7")


def _a_file(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.write_text("x")


def _gone(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def _pointer(folder: Path) -> None:
    (folder / "saved_model.pb").write_text(LFS_POINTER)


def _pointed_variables(folder: Path) -> None:
    (folder / "variables" / "variables.data-00000-of-00001").write_text(LFS_POINTER)


def _cut(folder: Path) -> None:
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"0 of")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pointer, ["saved_model.pb is a Git LFS pointer", "git lfs pull"]),
        (_pointed_variables, ["variables.data-00000-of-00001 is a Git LFS pointer"]),
        (_cut, ["not complete", "variables.data-00000-of-00001 is cut short"]),
        (_no_variables, ["not complete", "variables.index"]),
        (_half, ["not complete", "data-00000-of-00001 is missing"]),
        (_no_graph, ["no SavedModel in", "saved_model.pb"]),
        (_as_text, ["saved_model.pbtxt"]),
        (_a_checkpoint, ["ckpt-7.index", "--checkpoint"]),
        (_a_file, ["is a file"]),
        (_gone, ["no folder"]),
    ],
)
def test_what_is_no_saved_model(
    saved: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    spoil(saved)
    with pytest.raises(CheckpointError) as caught:
        find_saved_model(saved)
    for word in words:
        assert word in str(caught.value)


# --- the recipe ------------------------------------------------------------------------------


def test_init_writes_what_load_reads(given: Given, tmp_path: Path, saved: Path) -> None:
    given = replace(given, mean=(127.5,), std=(127.5,), score_threshold=0.4)
    made = written(given, tmp_path / "models" / "gulls", pin=True)
    source = made.source
    assert isinstance(source, SavedModelSource)
    assert made.resolve(source.path).resolve() == saved.resolve()
    assert (made.name, made.architecture, made.image) == ("gulls", "ssd", "odapi")
    assert source.normalization is not None
    assert (source.normalization.mean, source.normalization.std) == ((127.5,), (127.5,))
    assert [item.path for item in source.files] == WHOLE
    assert "from the SavedModel of gulls" in made.description


def test_its_name_is_not_saved_model(given: Given) -> None:
    assert settle(given)[0].name == "mowen"


def test_with_a_pipeline_config(given: Given, tmp_path: Path) -> None:
    (tmp_path / "pipeline.config").write_text(CONFIG)
    made = written(replace(given, pipeline_config=tmp_path), tmp_path / "m" / "a", pin=True)
    assert isinstance(made.source, SavedModelSource)
    assert "pipeline.config" in [item.path for item in made.source.files]
    (tmp_path / "pipeline.config").write_text(CONFIG.replace("num_classes: 2", "num_classes: 5"))
    with pytest.raises(LabelMapError, match="5 classes"):
        settle(replace(given, pipeline_config=tmp_path))


def test_of_model_maker(given: Given, tmp_path: Path) -> None:
    given = replace(given, spec=SPEC, image_size=(128, 128), max_detections=10)
    given = replace(given, nms_score_threshold=0.05)
    made = written(given, tmp_path / "m" / "a")
    assert made.export.nms_score_threshold == 0.05
    assert (made.architecture, made.image) == ("efficientdet", "modelmaker")
    assert made.export.image_size == (128, 128)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"saved_model": None}, ["--checkpoint", "--saved-model"]),
        ({"checkpoint": Path("x")}, ["--checkpoint and --saved-model"]),
        ({"mean": (1.0,)}, ["--mean and --std"]),
        ({"std": (1.0,)}, ["--mean and --std"]),
        ({"mean": (1.0,), "std": (1.0,), "spec": SPEC}, ["only apply to an exported SavedModel"]),
        (
            {"mean": (1.0,), "std": (1.0,), "saved_model": None, "checkpoint": Path("x")},
            ["only apply to an exported SavedModel"],
        ),
        ({"max_detections": 5}, ["--max-detections", "graph"]),
        ({"image_size": (64, 64)}, ["--image-size", "graph"]),
        ({"regular_nms": True}, ["--regular-nms", "graph"]),
        ({"nms_score_threshold": 0.0}, ["--nms-score-threshold", "graph"]),
        ({"spec": SPEC, "pipeline_config": Path("x")}, ["--model-maker and --pipeline-config"]),
    ],
)
def test_what_does_not_go_together(given: Given, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        settle(replace(given, **changes))
    for word in words:
        assert word in str(caught.value)


def test_numbers_of_the_command_line() -> None:
    assert channel_values("mean", "127.5") == (127.5,)
    assert channel_values("mean", "123.675,116.28, 103.53") == (123.675, 116.28, 103.53)
    assert channel_values("mean", "-1") == (-1.0,)


@pytest.mark.parametrize(
    ("name", "text"),
    [("mean", "x"), ("mean", "1,2"), ("std", "0"), ("std", "-1"), ("std", "inf"), ("mean", "nan")],
)
def test_numbers_that_are_none(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"--{name}"):
        channel_values(name, text)


RECIPE = """\
schema = 1
name = "mine"
title = "-"
description = "-"
licence = "Apache-2.0"
author = "-"
version = "1"
architecture = "ssd"
image = "odapi"
variants = ["float32"]
[source]
kind = "saved_model"
path = "../../saved"
normalization = { mean = [127.5], std = [127.5] }
[labels]
file = "/somewhere/labels.pbtxt"
"""

MODEL_MAKER = (
    RECIPE.replace('"ssd"', '"efficientdet"')
    .replace('"odapi"', '"modelmaker"')
    .replace("[labels]", f'[efficientdet]\nspec = "{SPEC}"\n[labels]')
)


def _load(text: str, folder: Path) -> Recipe:
    path = folder / "models" / "mine" / "recipe.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return load(path)


def test_paths_may_lead_anywhere(tmp_path: Path) -> None:
    assert _load(RECIPE, tmp_path).local_paths() == {
        "labels.file": "/somewhere/labels.pbtxt",
        "source.path": "../../saved",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RECIPE.replace("[127.5],", "[1, 2],"), ["normalization.mean", "not 2"]),
        (RECIPE.replace("std = [127.5]", "std = [0]"), ["normalization.std"]),
        (RECIPE.replace("std = [127.5]", "std = [inf]"), ["number that is not finite"]),
        (RECIPE.replace(", std = [127.5]", ""), ["normalization.std", "missing"]),
        (RECIPE.replace("path =", "folder ="), ["source.path", "missing"]),
        (RECIPE.replace("file = ", "in_source = ").replace("/some", "some"), ["labels.file"]),
        (RECIPE + "[export]\nimage_size = [64, 64]\n", ["export.image_size", "graph"]),
        (RECIPE + "[export]\nmax_detections = 5\n", ["export.max_detections", "graph"]),
        (RECIPE + "[export]\nregular_nms = true\n", ["export.regular_nms", "graph"]),
        (RECIPE + "[export]\nnms_score_threshold = 0\n", ["nms_score_threshold", "graph"]),
        (RECIPE.replace('["float32"]', '["dynamic"]\nprofile = "seed"'), ["profile 'seed'"]),
        (MODEL_MAKER, ["modelmaker", "source.normalization"]),
    ],
)
def test_recipes_that_are_wrong(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        _load(text, tmp_path)
    for word in words:
        assert word in str(caught.value)


# --- taking it -------------------------------------------------------------------------------


def test_what_is_taken(given: Given, tmp_path: Path, saved: Path) -> None:
    (tmp_path / "pipeline.config").write_text(CONFIG)
    given = replace(given, pipeline_config=tmp_path / "pipeline.config")
    made = written(given, tmp_path / "m" / "a", pin=True)
    store = Store(tmp_path / "store")
    got = acquire(made, store)
    assert list(got.contents.saved_model) == WHOLE
    assert got.contents.config is not None
    assert got.contents.checkpoint == {}
    record = got.record
    assert (record["kind"], record["pinned"]) == ("saved_model", True)
    assert str(tmp_path) not in str(record)
    assert source_at_hand(made, store)
    (saved / "saved_model.pb").write_bytes(SSD[::-1])
    with pytest.raises(DigestMismatchError, match=r"saved_model\.pb.*SHA-256"):
        acquire(made, store)
    (saved / "saved_model.pb").unlink()
    assert not source_at_hand(made, store)


def test_it_takes_no_archive(given: Given, tmp_path: Path) -> None:
    made = written(given, tmp_path / "m" / "a")
    with pytest.raises(UsageError, match="local files"):
        acquire(made, Store(tmp_path / "store"), Options(archive=tmp_path / "x.tar.gz"))


def test_a_label_map_that_is_none(given: Given, labels: Path) -> None:
    labels.write_text("item {")
    with pytest.raises(KilnError, match="line 1"):
        settle(given)


# --- the plan --------------------------------------------------------------------------------

FILES = dict.fromkeys(WHOLE, "a" * 64)
SOURCES = Contents(saved_model=FILES, label_map="b" * 64, check_images={"cat.png": "c" * 64})


def _plan(text: str, folder: Path, sources: Contents = SOURCES) -> Plan:
    made = _load(text, folder)
    return make_plan(
        made, sources, made.variants, image=f"sha256:{'1' * 64}", code=StageCode("2" * 64)
    )


def test_plan_of_an_export(tmp_path: Path) -> None:
    plan = _plan(RECIPE.replace('["float32"]', '["dynamic", "float32"]'), tmp_path)
    steps = {step.id: step for step in plan.steps}
    assert "checkpoint" not in steps
    taken = steps["export"]
    assert taken.stage == "saved_model"
    assert taken.inputs == {"saved_model": Files(FILES), "label_map": Files({"": "b" * 64})}
    assert taken.params == {"normalization": {"mean": [127.5], "std": [127.5]}}
    assert steps["convert-float32"].inputs["saved_model"] == Output("export", "saved_model")


def test_plan_with_a_pipeline_config(tmp_path: Path) -> None:
    plan = _plan(RECIPE, tmp_path, replace(SOURCES, config="d" * 64))
    given = plan.step("export").inputs["config"]
    assert given == Files({"pipeline.config": "d" * 64})


def test_plan_of_its_checks(tmp_path: Path) -> None:
    plan = _plan(
        RECIPE.replace('["float32"]', '["int8", "float32"]')
        + "[calibration]\nimages = '/images'\n",
        tmp_path,
        replace(SOURCES, images={"cat.png": "c" * 64}),
    )
    steps = {step.id: step for step in plan.steps}
    ran = steps["reference"]
    assert ran.stage == "saved_model_reference"
    assert ran.inputs["saved_model"] == Output("export", "saved_model")
    assert ran.params_from["normalization_from"] == Fact("export", "normalization_from")
    asked = {name for name, step in steps.items() if "normalizations" in step.params_from}
    assert asked == {"check-float32", "check-int8"}
    assert steps["check-int8"].params_from["weights"] == Fact("reference", "weights")


def test_plan_of_model_maker(tmp_path: Path) -> None:
    normalization = "normalization = { mean = [127.5], std = [127.5] }\n"
    plan = _plan(MODEL_MAKER.replace(normalization, ""), tmp_path)
    steps = {step.id: step for step in plan.steps}
    assert steps["checkpoint"].stage == "saved_model_checkpoint"
    assert steps["checkpoint"].params == {"spec": SPEC, "image_size": None}
    assert steps["export"].stage == "modelmaker_export"
    assert steps["export"].inputs == {"checkpoint": Output("checkpoint", "model")}
    assert steps["reference"].stage == "modelmaker_reference"
    assert "normalizations" not in steps["check-float32"].params_from
