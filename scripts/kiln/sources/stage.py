"""Take the files kept with a recipe, from which a stage makes the checkpoint."""

from __future__ import annotations

from kiln.core.errors import RecipeError
from kiln.recipes.contents import Contents
from kiln.recipes.source import StageSource
from kiln.sources.fetcher import Fetched, Fetcher, Options


class StageFetcher(Fetcher[StageSource]):
    """Fetches a :class:`~kiln.recipes.source.StageSource`."""

    def at_hand(self) -> bool:
        """Whether all files are beside the recipe."""
        return all(self.recipe.resolve(item.path).is_file() for item in self.source.inputs.values())

    def fetch(self, options: Options) -> Fetched:
        """Take the files into the store.

        Raises:
            RecipeError: a file is missing.
            DigestMismatchError: a file is not the pinned one.
        """
        inputs = {}
        for name, item in self.source.inputs.items():
            path = self.recipe.resolve(item.path)
            if not path.is_file():
                raise RecipeError(
                    f"Recipe {self.recipe.name!r} names {item.path}, which does not exist.",
                    "Restore the file from version control.",
                )
            inputs[name] = self.store.add_file(path, expect=item.sha256)
        record = {"kind": self.source.kind, "stage": self.source.stage, "inputs": dict(inputs)}
        return Fetched(Contents(inputs=inputs), record)
