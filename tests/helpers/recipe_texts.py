"""Recipes as text, written and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiln.core.errors import RecipeError
from kiln.recipes import recipe

GOOD = """\
schema = 1
name = "toy"
title = "Toy"
description = "A toy."
licence = "Apache-2.0"
author = "Someone"
version = "1"
architecture = "ssd"
image = "odapi"
variants = ["dynamic", "int8"]
[source]
kind = "archive"
url = "http://127.0.0.1/toy.tar.gz"
mirrors = ["https://127.0.0.1/copy.tar.gz"]
root = "toy"
checkpoint = "checkpoint"
pipeline_config = "pipeline.config"
sha256 = "{sha}"
[[source.files]]
path = "checkpoint/ckpt-0.index"
size = 12
[labels]
in_source = "label_map.pbtxt"
[export]
image_size = [320, 256]
[calibration]
images = "../images"
[limits]
memory = "1.5GiB"
timeout = "1h30min"
""".replace("{sha}", "ab" * 32)

STAGE = """\
[source]
kind = "stage"
stage = "make_it"
params = { seed = 3, scales = [1.0, 2.5], deep = { on = true } }
[source.inputs]
weights = { path = "w/x.tflite", sha256 = "{sha}" }
[labels]
file = "../labels/x.pbtxt"
""".replace("{sha}", "0c" * 32)


def write(tmp_path: Path, text: str, name: str = "toy") -> Path:
    path = tmp_path / "models" / name / "recipe.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path: Path, text: str, name: str = "toy") -> recipe.Recipe:
    return recipe.load(write(tmp_path, text, name), tmp_path / "models")


def refused(tmp_path: Path, text: str) -> str:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, tmp_path / "models")
    assert str(path) in caught.value.message, "the message must name the file"
    assert caught.value.remedy
    assert caught.value.__cause__ is None
    return caught.value.message


def with_stage_source(text: str = STAGE) -> str:
    head = GOOD.split("[source]")[0].replace('"dynamic", "int8"', '"float32"')
    return head + text
