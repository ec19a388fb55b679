"""Which recipes a command is about; each is read once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kiln.core.errors import RecipeError, UsageError
from kiln.recipes import selection
from kiln.recipes.recipe import Recipe, discover, load
from kiln.recipes.selection import Selection, read_all, select

RECIPE = """\
schema = 1
name = "{name}"
title = "A toy"
description = "Nothing."
licence = "MIT"
author = "Nobody"
version = "1"
architecture = "ssd"
image = "odapi"
sample = {sample}
variants = {variants}
[source]
kind = "stage"
stage = "toy"
[labels]
in_source = "labels.pbtxt"
"""


def add(models: Path, name: str, sample: str = "false", variants: str = '["float32"]') -> Path:
    path = models / name / "recipe.toml"
    path.parent.mkdir(parents=True)
    path.write_text(RECIPE.format(name=name, sample=sample, variants=variants))
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three recipes and a broken one."""
    add(tmp_path, "both", variants='["float32", "dynamic"]')
    add(tmp_path, "a_sample", sample="true")
    add(tmp_path, "plain")
    add(tmp_path, "broken").write_text("schema = ")
    return tmp_path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the recipes that were read."""
    seen: list[str] = []

    def counting(path: Path, models_dir: Path | None = None) -> Recipe:
        seen.append(path.parent.name)
        return load(path, models_dir)

    monkeypatch.setattr(selection, "load", counting)
    yield seen


def test_all_are_read_once_and_a_broken_one_is_kept(models: Path, reads: list[str]) -> None:
    found = select(models, discover(models))
    assert found.names == ("a_sample", "both", "broken", "plain") == tuple(reads)
    assert list(found.recipes) == ["a_sample", "both", "plain"]
    assert list(found.broken) == ["broken"]
    with pytest.raises(RecipeError, match="broken") as caught:
        found.unbroken()
    assert caught.value is found.broken["broken"]
    assert len(reads) == 4


def test_only_those_named_are_read(models: Path, reads: list[str]) -> None:
    found = select(models, discover(models), ["plain", "both", "plain"])
    assert [recipe.name for recipe in found.unbroken()] == ["plain", "both"] == reads


def test_what_does_not_fit_is_left_out_but_not_what_is_broken(models: Path) -> None:
    found = discover(models)
    assert select(models, found, samples=True).names == ("a_sample", "broken")
    assert select(models, found, variants=["dynamic"]).names == ("both", "broken")


def test_nothing_that_fits(models: Path) -> None:
    (models / "broken" / "recipe.toml").unlink()
    with pytest.raises(UsageError, match="No recipe"):
        select(models, discover(models), variants=["int8"])
    with pytest.raises(UsageError, match="plane"):
        select(models, discover(models), ["plane"])
    with pytest.raises(UsageError, match="float23"):
        select(models, discover(models), variants=["float23"])
    assert read_all(models, {}) == Selection((), {})


def test_a_recipe_keeps_what_was_read(tmp_path: Path) -> None:
    path = add(tmp_path, "toy")
    text = path.read_bytes()
    recipe = load(path)
    path.write_text("changed")
    assert (recipe.file.path, recipe.file.data) == (path, text)
    assert recipe.resolve("x") == path.parent / "x"
    assert Selection.of(recipe).unbroken() == [recipe]
