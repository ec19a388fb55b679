"""A recipe and the plan made of it, without a file or a project."""

from __future__ import annotations

from typing import Any

from kiln.project.closures import StageCode
from kiln.recipes.contents import Contents
from kiln.recipes.plan import Plan, make_plan
from kiln.recipes.recipe import CONVERTED, Recipe, Variant
from kiln.recipes.values import tuples

IMAGE = f"sha256:{'1' * 64}"
CODE = StageCode("2" * 64)
CHECKPOINT = {
    "pipeline.config": "a" * 64,
    "checkpoint/ckpt-0.index": "b" * 64,
    "checkpoint/ckpt-0.data-00000-of-00001": "c" * 64,
}
IMAGES = {"cat.png": "d" * 64, "cup.png": "e" * 64}
SOURCES = Contents(checkpoint=CHECKPOINT, label_map="f" * 64, images=IMAGES)


def recipe(**changes: Any) -> Recipe:
    table = {
        "schema": 1,
        "name": "toy",
        "title": "Toy",
        "description": "A toy.",
        "licence": "Apache-2.0",
        "author": "Nobody",
        "version": "1",
        "architecture": "ssd",
        "image": "odapi",
        "variants": list(CONVERTED),
        "source": {
            "kind": "archive",
            "url": "http://127.0.0.1/toy.tar.gz",
            "root": "toy",
            "checkpoint": "checkpoint",
            "pipeline_config": "pipeline.config",
        },
        "labels": {"file": "labels.pbtxt"},
        "calibration": {"images": "images"},
        **changes,
    }
    return Recipe.model_validate(tuples(table))


def plan(
    made_of: Recipe | None = None,
    sources: Contents = SOURCES,
    variants: tuple[Variant, ...] = CONVERTED,
    image: str = IMAGE,
    code: StageCode = CODE,
) -> Plan:
    return make_plan(made_of or recipe(), sources, variants, image=image, code=code)
