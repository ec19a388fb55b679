"""The interface that every kind of source implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
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
    """Options for fetching a source.

    Args:
        archive: a local file to use instead of downloading the recipe's archive.
        on_progress: called as a download proceeds.
        on_note: called with what the user should know.
    """

    archive: Path | None = None
    on_progress: OnProgress | None = None
    on_note: Callable[[str], None] | None = None

    def tell(self, model: str, notes: Iterable[str]) -> None:
        """Pass on notes about a model, if anybody listens."""
        if self.on_note is not None:
            for note in notes:
                self.on_note(f"{model}: {note}")


@dataclass(frozen=True)
class Fetched:
    """A verified source in the store.

    Args:
        contents: the part that a plan starts from.
        record: its origin, as plain data. It is published, so it holds no local path.
        files: all its files (path -> SHA-256), perhaps with the label map; empty where the recipe
            names each file.
    """

    contents: Contents
    record: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)


class Fetcher(ABC, Generic[SourceT]):
    """Fetches the source of one recipe; a subclass for each kind.

    Args:
        recipe: names files relative to its folder.
        source: the recipe's source.
        store: where fetched files go.
    """

    def __init__(self, recipe: Recipe, source: SourceT, store: Store) -> None:
        self.recipe, self.source, self.store = recipe, source, store

    @property
    def packed(self) -> Packed | None:
        """The archive that the source is published as, if it is one."""
        return None

    @abstractmethod
    def at_hand(self) -> bool:
        """Whether the source can be used without a download."""

    @abstractmethod
    def fetch(self, options: Options) -> Fetched:
        """Fetch the source into the store and verify it.

        Raises:
            SourceUnavailableError, DigestMismatchError, ArchiveError: it cannot be fetched, or is
                not the pinned one.
            CheckpointError, RecipeError: it is not where the recipe says.
            UnsupportedModelError: its model cannot be converted.
        """
