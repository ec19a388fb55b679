"""A training's folder: which checkpoint is taken, what is refused, and pins."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from training_folder import CONFIG, LABELS, LFS_POINTER, STATE, index, photo, save

from kiln.core.digest import sha256_bytes
from kiln.core.errors import (
    CheckpointError,
    DigestMismatchError,
    ImageSetError,
    KilnError,
    LabelMapError,
    UnsupportedModelError,
    UsageError,
)
from kiln.core.store import Store
from kiln.recipes.recipe import Recipe, load
from kiln.sources import local
from kiln.sources.fetcher import Options
from kiln.sources.model import acquire, source_at_hand

RECIPE = """\
schema = 1
name = "mine"
title = "Mine"
description = "-"
licence = "Apache-2.0"
author = "-"
version = "1"
architecture = "ssd"
image = "odapi"
variants = ["float32"]
[source]
kind = "local"
checkpoint = "{checkpoint}"
pipeline_config = "{config}"
{pins}
[labels]
file = "{labels}"
{more}
"""


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A training's folder of another machine: three checkpoints, of which the second is named."""
    folder = tmp_path / "träining 7"
    for number in (9, 10, 11):
        save(folder, f"ckpt-{number}")
    (folder / "checkpoint").write_text(STATE.format("/home/somebody/run/ckpt-10"))
    (folder / "pipeline.config").write_text(CONFIG)
    (folder / "labels.pbtxt").write_text(LABELS)
    (folder / "events.out.tfevents.1").write_text("not for us")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def recipe(tmp_path: Path, training: Path) -> Callable[..., Recipe]:
    def make(pins: str = "", more: str = "", **changes: str) -> Recipe:
        path = tmp_path / "models" / "mine" / "recipe.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        where = {
            "checkpoint": f"../../{training.name}",
            "config": str(training / "pipeline.config"),
            "labels": f"../../{training.name}/labels.pbtxt",
        }
        text = RECIPE.format(**{**where, **changes}, pins=pins, more=more)
        path.write_text(text, encoding="utf-8")
        return load(path)

    return make


# --- which checkpoint ------------------------------------------------------------------------


def test_the_state_file_decides(training: Path) -> None:
    found = local.find(training)
    assert found.prefix == training / "ckpt-10"
    assert [p.name for p in found.files] == ["ckpt-10.data-00000-of-00001", "ckpt-10.index"]
    assert found.others == 2
    assert local.chosen(found) == (
        f"taking checkpoint ckpt-10, and none of the 2 others in {training}"
    )


def test_without_a_state_file_the_highest_number_does(training: Path) -> None:
    (training / "checkpoint").unlink()
    assert local.find(training).prefix.name == "ckpt-11"


def test_a_state_file_may_name_what_is_gone(training: Path) -> None:
    (training / "checkpoint").write_text(STATE.format("C:\\runs\\ckpt-99"))
    assert local.find(training).prefix.name == "ckpt-11"


def test_a_prefix_is_what_it_says(training: Path) -> None:
    found = local.find(training / "ckpt-9")
    assert found.prefix.name == "ckpt-9"


def test_ckpt_1_is_not_ckpt_10(training: Path) -> None:
    save(training, "ckpt-1", shards=2)
    names = [path.name for path in local.find(training / "ckpt-1").files]
    assert names == ["ckpt-1.data-00000-of-00002", "ckpt-1.data-00001-of-00002", "ckpt-1.index"]


def test_an_exported_folder(tmp_path: Path) -> None:
    """What exporter_main_v2.py writes: the checkpoint is in a folder of its own."""
    save(tmp_path / "exported" / "checkpoint", "ckpt-0")
    (tmp_path / "exported" / "saved_model").mkdir()
    (tmp_path / "exported" / "saved_model" / "saved_model.pb").write_text("graph")
    assert local.find(tmp_path / "exported").prefix.name == "ckpt-0"


def test_links_are_followed(training: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(training)
    assert local.find(tmp_path / "latest").prefix.name == "ckpt-10"


# --- what is no checkpoint -------------------------------------------------------------------


def _empty(folder: Path) -> None:
    pass


def _saved_model(folder: Path) -> None:
    (folder / "saved_model.pb").write_text("graph")
    save(folder / "variables", "variables")


def _exported_only(folder: Path) -> None:
    (folder / "saved_model").mkdir()
    (folder / "saved_model" / "saved_model.pb").write_text("graph")


def _frozen(folder: Path) -> None:
    (folder / "frozen_inference_graph.pb").write_text("graph")


def _hdf5(folder: Path) -> None:
    (folder / "weights.h5").write_text("weights")


def _keras(folder: Path) -> None:
    (folder / "model.keras").write_text("weights")


def _converted(folder: Path) -> None:
    (folder / "model.tflite").write_text("TFL3")


def _photos(folder: Path) -> None:
    for number in range(9):
        (folder / f"{number}.jpg").write_text("photo")


def _tf1(folder: Path) -> None:
    save(folder, "model.ckpt-200000")
    (folder / "model.ckpt-200000.meta").write_text("graph")


def _no_data(folder: Path) -> None:
    save(folder, "ckpt-1")
    (folder / "ckpt-1.data-00000-of-00001").unlink()


def _lost_shard(folder: Path) -> None:
    save(folder, "ckpt-1", shards=3)
    (folder / "ckpt-1.data-00001-of-00003").unlink()


def _empty_index(folder: Path) -> None:
    save(folder, "ckpt-1")
    (folder / "ckpt-1.index").write_bytes(b"")


def _cut_index(folder: Path) -> None:
    save(folder, "ckpt-1")
    path = folder / "ckpt-1.index"
    path.write_bytes(path.read_bytes()[:-20])


def _cut_shard(folder: Path) -> None:
    save(folder, "ckpt-1", shards=2)
    (folder / "ckpt-1.data-00001-of-00002").write_text("1 of ckpt-")


def _pointers(folder: Path) -> None:
    save(folder, "ckpt-1")
    for path in folder.iterdir():
        path.write_text(LFS_POINTER)


def _pointed_data(folder: Path) -> None:
    save(folder, "ckpt-1", shards=3)
    (folder / "ckpt-1.data-00001-of-00003").write_text(LFS_POINTER)


BAD = {
    _empty: "is empty: there is no checkpoint",
    _saved_model: "is a SavedModel, not a checkpoint",
    _exported_only: "is a SavedModel, not a checkpoint",
    _frozen: "a frozen graph of TensorFlow 1: frozen_inference_graph.pb",
    _hdf5: "weights in Keras' HDF5 format: weights.h5",
    _keras: "Keras' own format: model.keras",
    _converted: "converted already: model.tflite",
    _photos: "no .index file; it holds 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, …",
    _tf1: "is a checkpoint of TensorFlow 1",
    _no_data: "ckpt-1.data-00000-of-00001 is missing",
    _lost_shard: "ckpt-1.data-00001-of-00003 is missing",
    _empty_index: "ckpt-1.index is empty",
    _cut_index: "ckpt-1.index is damaged or cut short",
    _cut_shard: "ckpt-1.data-00001-of-00002 is cut short: it has 10 bytes of at least 11",
    _pointers: "ckpt-1.index is a Git LFS pointer, not the file itself",
    _pointed_data: "ckpt-1.data-00001-of-00003 is a Git LFS pointer",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__.strip("_"))
def test_what_is_no_checkpoint(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    make(folder)
    with pytest.raises(CheckpointError) as caught:
        local.find(folder)
    assert BAD[make] in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.remedy
    assert "archive" not in caught.value.remedy


@pytest.mark.parametrize("make", [_lost_shard, _empty_index, _no_data])
def test_a_prefix_that_is_not_whole(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(CheckpointError, match="not complete") as caught:
        local.find(tmp_path / "ckpt-1")
    assert BAD[make] in caught.value.message


def test_a_saved_models_variables_are_no_checkpoint(tmp_path: Path) -> None:
    _saved_model(tmp_path)
    for given in (tmp_path / "variables", tmp_path / "variables" / "variables"):
        with pytest.raises(CheckpointError, match="is a SavedModel"):
            local.find(given)


def test_tensorflow_1_is_fine_for_model_maker(tmp_path: Path) -> None:
    _tf1(tmp_path)
    names = [path.name for path in local.find(tmp_path, tf1=True).files]
    assert names == ["model.ckpt-200000.data-00000-of-00001", "model.ckpt-200000.index"]


def test_names_that_lead_nowhere(training: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tar.gz").write_text("archive")
    for given, words in (
        (tmp_path / "nowhere" / "ckpt-1", "neither a folder nor a checkpoint"),
        (training / "ckpt-8", "no ckpt-8.index"),
        (training / "labels.pbtxt", "is a file, not a checkpoint"),
        (tmp_path / "model.tar.gz", "is an archive"),
    ):
        with pytest.raises(CheckpointError, match=words):
            local.find(given)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(training: Path) -> None:
    training.chmod(0o000)
    try:
        with pytest.raises(CheckpointError, match="cannot be read"):
            local.find(training)
    finally:
        training.chmod(0o755)


# --- acquired --------------------------------------------------------------------------------


def test_only_the_chosen_checkpoint_counts(
    recipe: Callable[..., Recipe], training: Path, store: Store
) -> None:
    notes: list[str] = []
    got = acquire(recipe(), store, Options(on_note=notes.append))
    assert got.contents.checkpoint == {
        "pipeline.config": sha256_bytes(CONFIG.encode()),
        "checkpoint/ckpt-10.index": sha256_bytes(index("ckpt-10")),
        "checkpoint/ckpt-10.data-00000-of-00001": sha256_bytes(b"0 of ckpt-10"),
    }
    assert got.contents.label_map == sha256_bytes(LABELS.encode())
    assert [note for note in notes if "ckpt-10" in note]
    assert (got.record["kind"], got.record["checkpoint"]) == ("local", "ckpt-10")
    assert str(training.parent) not in str(got.record), "the record is published"
    assert source_at_hand(recipe(), store)
    assert not source_at_hand(recipe(checkpoint="../nowhere"), store)


def test_linked_files_are_taken_by_content(
    recipe: Callable[..., Recipe], training: Path, tmp_path: Path, store: Store
) -> None:
    before = acquire(recipe(), store).contents
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in list(training.iterdir()):
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
    assert acquire(recipe(), store).contents == before


def test_the_same_whatever_folder_it_is_in(
    recipe: Callable[..., Recipe], training: Path, tmp_path: Path, store: Store
) -> None:
    before = acquire(recipe(), store)
    moved = training.rename(tmp_path / "moved")
    config, labels = f"{moved}/pipeline.config", f"{moved}/labels.pbtxt"
    after = acquire(recipe(checkpoint=str(moved), config=config, labels=labels), store)
    assert (after.contents, after.record) == (before.contents, before.record)


PIN = '[[source.files]]\npath = "{}"\nsha256 = "{}"\n'


def test_pins(recipe: Callable[..., Recipe], training: Path, store: Store) -> None:
    pins = PIN.format("ckpt-10.index", sha256_bytes(index("ckpt-10")))
    assert acquire(recipe(pins), store).record["pinned"] is False
    pins += PIN.format("ckpt-10.data-00000-of-00001", sha256_bytes(b"0 of ckpt-10"))
    pins += PIN.format("pipeline.config", sha256_bytes(CONFIG.encode()))
    assert acquire(recipe(pins), store).record["pinned"] is True
    (training / "pipeline.config").write_text(CONFIG + "# changed\n")
    with pytest.raises(DigestMismatchError, match=r"pipeline\.config is not the file") as caught:
        acquire(recipe(pins), store)
    assert "kiln init" in caught.value.remedy
    assert "Restore" in caught.value.remedy


def test_a_training_that_went_on(
    recipe: Callable[..., Recipe], training: Path, store: Store
) -> None:
    pins = PIN.format("ckpt-10.index", sha256_bytes(index("ckpt-10")))
    (training / "checkpoint").write_text(STATE.format("/x/ckpt-11"))
    with pytest.raises(DigestMismatchError, match=r"pins ckpt-10\.index, which is not there"):
        acquire(recipe(pins), store)


@pytest.mark.parametrize(
    ("file", "text", "error", "words"),
    [
        ("pipeline.config", None, CheckpointError, "no pipeline.config"),
        ("pipeline.config", "model { faster_rcnn { } }", UnsupportedModelError, "crops"),
        ("pipeline.config", "{", UnsupportedModelError, "not a pipeline.config"),
        ("pipeline.config", LFS_POINTER, CheckpointError, "pipeline.config is a Git LFS pointer"),
        ("labels.pbtxt", LFS_POINTER, LabelMapError, "labels.pbtxt is a Git LFS pointer"),
        ("labels.pbtxt", None, LabelMapError, "There is no label map"),
        ("labels.pbtxt", "item {{{", LabelMapError, "labels.pbtxt"),
        ("labels.pbtxt", "item { id: 5 name: 'cat' }", LabelMapError, "has 2 classes"),
        ("labels.pbtxt", "cat\n", LabelMapError, "a plain list with 1 line"),
    ],
)
def test_what_is_refused_before_any_image(
    recipe: Callable[..., Recipe],
    training: Path,
    store: Store,
    file: str,
    text: str | None,
    error: type[KilnError],
    words: str,
) -> None:
    if text is None:
        (training / file).unlink()
    else:
        (training / file).write_text(text)
    with pytest.raises(error, match=words) as caught:
        acquire(recipe(), store)
    assert caught.value.remedy


def test_no_archive(recipe: Callable[..., Recipe], store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="local files"):
        acquire(recipe(), store, Options(archive=tmp_path / "model.tar.gz"))


# --- images that variants are checked on -----------------------------------------------------


def test_check_images(recipe: Callable[..., Recipe], tmp_path: Path, store: Store) -> None:
    for name in ("calibration", "check"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.PNG").write_bytes(photo(name))
        (tmp_path / name / "LICENCE").write_text("left alone")
    calibration = f'[calibration]\nimages = "{tmp_path}/calibration"\n'
    check = '[check]\nimages = "../../check"\n'
    assert acquire(recipe(), store).contents.check_images == {}
    given = {"calibration.PNG": sha256_bytes(photo("calibration"))}
    got = acquire(recipe(more=calibration), store)
    assert got.contents.check_images == got.contents.images == given
    got = acquire(recipe(more=calibration + check), store)
    assert got.contents.check_images == {"check.PNG": sha256_bytes(photo("check"))}
    assert got.contents.images == given
    expect = '[[check.expect]]\nimage = "calibration.PNG"\nlabel = "cat"\n'
    with pytest.raises(ImageSetError, match=r"'cat' in calibration\.PNG.*: check\.PNG"):
        acquire(recipe(more=calibration + check + expect), store)
    with pytest.raises(ImageSetError, match="nowhere does not exist"):
        acquire(recipe(more='[check]\nimages = "nowhere"\n'), store)
