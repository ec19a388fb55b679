"""The interface of every kind of source: what it is asked, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kiln.core.store import Store
from kiln.recipes.contents import Contents
from kiln.recipes.recipe import Recipe
from kiln.recipes.source import Source

if TYPE_CHECKING:
    from kiln.sources.download import OnProgress
    from kiln.sources.packed import Packed

SourceT = TypeVar("SourceT", bound=Source)


@dataclass(frozen=True)
class Options:
    """How a source is fetched.

    Args:
        archive: a file the user has already, used instead of downloading the recipe's archive.
        on_progress: told of a download as it goes on.
        on_note: told what a user should know.
    """

    archive: Path | None = None
    on_progress: OnProgress | None = None
    on_note: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Fetched:
    """A source that is in the store, verified.

    Args:
        contents: what of it a plan starts from.
        record: where it came from, as plain data. It is published: no path of this machine.
        files: everything in it (path -> SHA-256), the label map perhaps; empty where a recipe
            names each file.
    """

    contents: Contents
    record: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)


class Fetcher(ABC, Generic[SourceT]):
    """Fetches the source of one recipe; a subclass for each kind.

    Args:
        recipe: which names files relative to its folder.
        source: the recipe's own.
        store: where everything fetched goes.
    """

    def __init__(self, recipe: Recipe, source: SourceT, store: Store) -> None:
        self.recipe, self.source, self.store = recipe, source, store

    @property
    def packed(self) -> Packed | None:
        """The archive that the source is published as, if it is one."""
        return None

    @abstractmethod
    def at_hand(self) -> bool:
        """Whether fetching needs no download."""

    @abstractmethod
    def fetch(self, options: Options) -> Fetched:
        """Bring the source into the store, verified.

        Raises:
            SourceUnavailableError, DigestMismatchError, ArchiveError: it cannot be had, or is
                another.
            CheckpointError, RecipeError: it is not where the recipe says.
            UnsupportedModelError: it is of a model that cannot be converted.
        """
