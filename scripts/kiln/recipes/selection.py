"""Select the recipes that a command is about: those named, or all that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kiln.core.errors import RecipeError, UsageError
from kiln.core.suggest import refuse_unknown
from kiln.recipes.recipe import VARIANTS, Recipe, load


@dataclass(frozen=True)
class Selection:
    """Selected recipes by name, in the order of the request.

    Attributes:
        names: the selected models.
        recipes: those that could be read.
        broken: the errors of the others.
    """

    names: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    broken: Mapping[str, RecipeError] = field(default_factory=dict)

    @classmethod
    def of(cls, *recipes: Recipe) -> Selection:
        """Select recipes that were already read."""
        return cls(tuple(item.name for item in recipes), {item.name: item for item in recipes})

    def unbroken(self) -> list[Recipe]:
        """Return all recipes, in order.

        Raises:
            RecipeError: one cannot be read; the first such error.
        """
        for name in self.names:
            if name in self.broken:
                raise self.broken[name]
        return [self.recipes[name] for name in self.names]


def read_all(folder: Path, found: Mapping[str, Path]) -> Selection:
    """Read recipes; one that is broken does not hide the others.

    Args:
        folder: where the recipes are.
        found: model name -> recipe file (:func:`kiln.recipes.recipe.discover`).
    """
    recipes, broken = {}, {}
    for name, path in found.items():
        try:
            recipes[name] = load(path, folder)
        except RecipeError as error:
            broken[name] = error
    return Selection(tuple(found), recipes, broken)


def select(
    folder: Path,
    found: Mapping[str, Path],
    named: Sequence[str] = (),
    *,
    samples: bool = False,
    variants: Sequence[str] = (),
) -> Selection:
    """Read the recipes of the selected models.

    Args:
        folder: where the recipes are.
        found: model name -> recipe file (:func:`kiln.recipes.recipe.discover`).
        named: models to select; if empty, every model that fits, and every broken recipe, so that
            it is reported.
        samples: select only embedded samples.
        variants: select only models that have all of them.

    Raises:
        UsageError: a model or variant does not exist, or no model fits.
    """
    refuse_unknown("model", named, found)
    refuse_unknown("variant", variants, VARIANTS)
    if named:
        return read_all(folder, {name: found[name] for name in named})
    everything = read_all(folder, found)
    fitting = {
        name: recipe
        for name, recipe in everything.recipes.items()
        if (recipe.sample or not samples) and set(variants) <= set(recipe.variants)
    }
    names = tuple(name for name in found if name in fitting or name in everything.broken)
    if not names:
        raise UsageError(f"No recipe in {folder} fits.", "`kiln models` lists them.")
    return Selection(names, fitting, everything.broken)


def for_release(recipe: Recipe) -> bool:
    """Whether a release holds this model by default.

    Its source must be obtainable by anyone. Models of the seed profile are left out: they
    reproduce the faults of the original recipe.
    """
    return recipe.profile != "seed" and recipe.source.obtainable
