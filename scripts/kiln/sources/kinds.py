"""Select the fetcher for a kind of source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiln.core.store import Store
from kiln.recipes.recipe import Recipe
from kiln.sources.archive import ArchiveFetcher
from kiln.sources.fetcher import Fetcher
from kiln.sources.hub import HubFetcher
from kiln.sources.local import LocalFetcher
from kiln.sources.saved_model import SavedModelFetcher
from kiln.sources.stage import StageFetcher

#: ``source.kind`` in a recipe -> the class that fetches it.
FETCHERS: Mapping[str, type[Fetcher[Any]]] = {
    "archive": ArchiveFetcher,
    "hub": HubFetcher,
    "local": LocalFetcher,
    "saved_model": SavedModelFetcher,
    "stage": StageFetcher,
}


def fetcher_of(recipe: Recipe, store: Store) -> Fetcher[Any]:
    """Return the fetcher for the source of ``recipe``."""
    return FETCHERS[recipe.source.kind](recipe, recipe.source, store)
