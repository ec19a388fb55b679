"""Which recipes a command is about: those named, or all that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kiln.core.errors import RecipeError, UsageError
from kiln.core.suggest import refuse_unknown
from kiln.recipes.recipe import VARIANTS, ArchiveSource, HubSource, Recipe, StageSource, load


def choose(
    folder: Path,
    recipes: Mapping[str, Path],
    named: Sequence[str] = (),
    *,
    samples: bool = False,
    variants: Sequence[str] = (),
) -> list[str]:
    """Names of the models that are meant.

    Args:
        folder: where the recipes are.
        recipes: model name -> recipe file (:func:`kiln.recipes.recipe.discover`).
        named: taken as they are; when there are none, every model that fits.
        samples: only embedded samples.
        variants: only models that have all of them.

    Raises:
        UsageError: a model or variant does not exist, or no model fits.
    """
    refuse_unknown("model", named, recipes)
    refuse_unknown("variant", variants, VARIANTS)
    chosen = list(dict.fromkeys(named)) or [
        name for name, path in recipes.items() if _fits(path, folder, samples, variants)
    ]
    if not chosen:
        raise UsageError(f"No recipe in {folder} fits.", "`kiln models` lists them.")
    return chosen


def _fits(path: Path, folder: Path, samples: bool, variants: Sequence[str]) -> bool:
    """Whether a model that was not named is meant; a broken recipe is, so that it is reported."""
    try:
        recipe = load(path, folder)
    except RecipeError:
        return True
    return (recipe.sample or not samples) and set(variants) <= set(recipe.variants)


def anyone_can_have(recipe: Recipe) -> bool:
    """Whether the recipe's source can be had anywhere, and is known by a digest.

    Embedded samples are, and archives that the recipe pins. A training on somebody's disk is not,
    nor is an archive that would be trusted because it is the first one seen.
    """
    source = recipe.source
    if isinstance(source, StageSource):
        return True
    if isinstance(source, ArchiveSource):
        return bool(source.sha256 or source.git_blob_sha1 or source.files)
    return isinstance(source, HubSource) and bool(source.sha256 or source.files)


def only_here(recipe: Recipe) -> bool:
    """Whether the source is nowhere but on this machine."""
    return not isinstance(recipe.source, (StageSource, ArchiveSource, HubSource))


def for_release(recipe: Recipe) -> bool:
    """Whether a release holds this model without being told to.

    Models of the seed profile are not: they show what was wrong once.
    """
    return recipe.profile != "seed" and anyone_can_have(recipe)
