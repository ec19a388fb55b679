"""The recipe that is written of a training, read back."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_folder import CONFIG, index, written

from kiln.building.from_training import Given, settle
from kiln.building.recipe_writer import Arguments, recipe_text
from kiln.core.digest import sha256_bytes
from kiln.core.errors import UsageError
from kiln.core.store import Store
from kiln.recipes.recipe import Recipe
from kiln.recipes.source import LocalSource
from kiln.recipes.values import ANYWHERE, tuples
from kiln.sources.model import acquire

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


def test_everything_is_in_the_recipe(
    plain: Given, training: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "boats"
    wish = replace(
        plain,
        calibration=photos,
        images=photos,
        variants=("int8", "float32"),
        max_detections=7,
        score_threshold=0.4,
        image_size=(192, 256),
        output_order="tf1",
        regular_nms=True,
        nms_score_threshold=1e-05,
        nms_iou_threshold=0.45,
        max_detections_per_class=5,
        inference_io="int8",
        float_layers=('net/"a"', "AVERAGE_POOL_2D", 'net/"a"'),
        title='A "title" \\ of\ttwo\nlines \x7f Ünïcödé 🛶',
        description="{d}",
        licence="MIT",
        author="Ed",
        version="2.0",
        allow=("parity",),
    )
    arguments, _ = settle(wish, folder=folder, pin=True)
    found = written(arguments, folder / "recipe.toml")
    assert (found.name, found.title, found.description) == ("boats", wish.title, "{d}")
    assert (found.licence, found.author, found.version) == ("MIT", "Ed", "2.0")
    assert (found.variants, found.allow) == (("int8", "float32"), ("parity",))
    assert (found.export.max_detections, found.export.image_size) == (7, (192, 256))
    assert (found.export.score_threshold, found.export.output_order) == (0.4, "tf1")
    assert found.export.regular_nms
    assert (found.export.nms_score_threshold, found.export.nms_iou_threshold) == (1e-05, 0.45)
    assert (found.export.max_detections_per_class, found.export.inference_io) == (5, "int8")
    assert found.int8.float_layers == ('net/"a"', "AVERAGE_POOL_2D")  # each once
    assert isinstance(found.source, LocalSource)
    assert found.source.checkpoint == "../../Möwen & Boote/training/ckpt-2"
    assert found.source.pipeline_config == "../../Möwen & Boote/training/pipeline.config"
    assert found.labels.file == "../../Möwen & Boote/training/labels.pbtxt"
    assert found.calibration is not None
    assert found.calibration.images == found.check.images == "../../photos"
    assert [(item.path, item.size, item.sha256) for item in found.source.files] == [
        ("ckpt-2.data-00000-of-00001", 11, sha256_bytes(b"0 of ckpt-2")),
        ("ckpt-2.index", len(index("ckpt-2")), sha256_bytes(index("ckpt-2"))),
        ("pipeline.config", len(CONFIG), sha256_bytes(CONFIG.encode())),
    ]
    assert acquire(found, Store(tmp_path / "store")).record["pinned"] is True


def test_without_pins_the_folder_is_kept(plain: Given, training: Path, tmp_path: Path) -> None:
    folder = tmp_path / "boats"
    arguments, _ = settle(plain, folder=folder)
    source = written(arguments, folder / "recipe.toml").source
    assert isinstance(source, LocalSource)
    assert (source.checkpoint, source.files) == ("../Möwen & Boote/training", ())


def test_a_recipe_for_model_maker(plain: Given, tmp_path: Path) -> None:
    folder = tmp_path / "lite"
    arguments, _ = settle(replace(plain, spec="efficientdet_lite1"), folder=folder, pin=True)
    found = written(arguments, folder / "recipe.toml")
    assert (found.image, found.architecture) == ("modelmaker", "efficientdet")
    assert found.efficientdet is not None
    assert found.efficientdet.spec == "efficientdet_lite1"


def test_a_linked_folder(plain: Given, training: Path, tmp_path: Path) -> None:
    """Climbing out of a linked folder leads elsewhere than its name says."""
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "short").symlink_to(deep)
    (deep / "latest").symlink_to(training)
    checkpoint = tmp_path / "short" / "latest"
    arguments, _ = settle(replace(plain, checkpoint=checkpoint), folder=tmp_path / "short" / "x")
    found = written(arguments, tmp_path / "short" / "x" / "recipe.toml")
    assert isinstance(found.source, LocalSource)
    assert found.source.checkpoint == "../latest"  # the link that was named stays one
    assert found.resolve(found.source.checkpoint).resolve() == training
    assert found.resolve(found.labels.file or "").resolve() == training / "labels.pbtxt"


def test_from_below_the_current_folder(
    plain: Given, training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(training)
    wish = replace(plain, checkpoint=Path(), label_map=Path("labels.pbtxt"))
    folder = tmp_path / "models" / "boats"
    found = written(settle(wish, folder=folder)[0], folder / "recipe.toml")
    assert isinstance(found.source, LocalSource)
    assert found.resolve(found.source.checkpoint).resolve() == training
    assert settle(wish)[0].name == "mowen_boote"


def test_another_name_than_the_folders(plain: Given, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'boats' is not 'ships'"):
        settle(replace(plain, name="ships"), folder=tmp_path / "boats")
    with pytest.raises(UsageError, match="'My Boats' is not a valid model name") as caught:
        settle(plain, folder=tmp_path / "My Boats")
    assert "'my_boats'" in caught.value.remedy


def test_a_name_that_is_no_text(plain: Given, training: Path) -> None:
    odd = training.with_name(os.fsdecode(b"tr\xe4ining"))
    training.rename(odd)
    with pytest.raises(UsageError, match="not text in UTF-8"):
        recipe_text(settle(replace(plain, checkpoint=odd, label_map=odd / "labels.pbtxt"))[0])


@given(
    st.text(min_size=1), st.text(min_size=1), st.text(min_size=1).filter(lambda t: "\0" not in t)
)
def test_any_text_is_read_back(title: str, author: str, path: str) -> None:
    """As texts and as names of files, whatever is in them."""
    label_map = Path("/labels") / path.replace("/", "_").replace("\0", "_")
    arguments = Arguments(
        name="x", title=title, description="d", licence="l", author=author, version="v",
        architecture="ssd", checkpoint=Path("/c"), label_map=label_map,
        variants=("float32",), pipeline_config=Path("/p"),
    )  # fmt: skip
    table = tuples(tomllib.loads(recipe_text(arguments)))
    found = Recipe.model_validate(table, context={ANYWHERE: True})
    assert (found.title, found.author) == (title, author)
    assert found.labels.file == str(label_map) or label_map.name in (".", "..")
