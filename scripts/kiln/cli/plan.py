"""``kiln plan``: show what a build would do, for people and for job matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiln.cli.common import json_option, models_dir_option, samples_option, variants_option
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import UsageError
from kiln.core.output import table

if TYPE_CHECKING:
    from kiln.building.dry_run import Forecast
    from kiln.recipes.recipe import Recipe, Variant


@click.command(short_help="Say what a build would do.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@variants_option
@samples_option
@models_dir_option
@click.option("--github-matrix", is_flag=True, help="One line of JSON, for a job matrix.")
@json_option
def plan(
    models: tuple[str, ...],
    variants: tuple[str, ...],
    samples: bool,
    models_dir: Path | None,
    github_matrix: bool,
    as_json: bool,
) -> None:
    """Show what a build would do (of all recipes when none is named), without doing it.

    With --github-matrix, a strategy matrix of the models that a release holds: samples and models
    whose archives their recipes pin, others only when named.
    """
    from kiln.building.dry_run import forecast
    from kiln.core.store import Store
    from kiln.project.folders import Project
    from kiln.recipes.recipe import VARIANTS, discover
    from kiln.recipes.selection import select

    if github_matrix and as_json:
        raise UsageError("--github-matrix is JSON already.", "Leave --json out.")
    project = Project.find()
    folder = (models_dir or project.models).absolute()
    chosen = select(folder, discover(folder), models, samples=samples, variants=variants)
    recipes = chosen.unbroken()
    wanted = [variant for variant in VARIANTS if variant in variants]
    if github_matrix:
        print(json.dumps(_matrix(recipes, wanted, named=bool(models)), separators=(",", ":")))
        return
    store = Store(Store.default_root())
    plans = [forecast(project, store, recipe, wanted) for recipe in recipes]
    if as_json:
        for item in plans:
            JsonReporter().event("plan", **item.as_json())
    else:
        print("\n\n".join(_told(item) for item in plans))


def _matrix(recipes: list[Recipe], variants: list[Variant], *, named: bool) -> dict[str, Any]:
    from kiln.recipes.plan import images_of
    from kiln.recipes.selection import for_release

    for recipe in recipes:
        if named and recipe.source.only_here:
            raise UsageError(
                f"The source of model {recipe.name!r} is only on this machine.",
                "No other machine can build it: leave it out of the matrix.",
            )
    chosen = [recipe for recipe in recipes if named or for_release(recipe)]
    if not chosen:
        raise UsageError(
            "No matching recipe can be built on another machine.", "Name the models that are meant."
        )
    return {
        "include": [
            {
                "model": recipe.name,
                "image": recipe.image,
                "other_images": list(images_of(recipe)[1:]),
                "variants": list(variants or recipe.variants),
            }
            for recipe in chosen
        ]
    }


def _told(item: Forecast) -> str:
    place = "available" if item.at_hand else "to be downloaded; keys are known then"
    lines = [
        f"{item.model}: {' '.join(item.variants)}",
        f"  image   {item.image}, {item.identity}",
        *(f"  {'and':7} {image.name}, {image.identity}" for image in item.other_images),
        f"  source  {item.source}, {place}",
    ]
    if item.steps:
        words = {
            "stored": "in the store",
            "runs": "runs",
            "follows": "runs if what it reads changes",
            "spare": "not needed",
        }
        rows = [[step.id, step.stage, step.key[:16], words[step.state]] for step in item.steps]
        text = table(["step", "stage", "key", ""], rows)
        lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines)
