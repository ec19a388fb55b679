"""Fetch a TF-Hub feature vector from a local hub cache, or as a packed download."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from kiln.core.errors import ArchiveError, DigestMismatchError
from kiln.core.listing import EMPTY, TooMuchError, list_tree
from kiln.core.store import Store
from kiln.recipes.contents import Contents
from kiln.recipes.source import HubSource
from kiln.sources.fetcher import Fetched, Fetcher, Options
from kiln.sources.packed import Packed, archive_files, at_hand, check_files

#: Set to use TF-Hub offline; tensorflow_hub reads the same variable.
CACHE_VARIABLE = "TFHUB_CACHE_DIR"

_TREE_REF = "hub-tree"
_GRAPH = "saved_model.pb"


def cache_folder(handle: str) -> Path | None:
    """Return the module's folder in a hub cache; None if there is none.

    Its name is the SHA-1 of the handle, as in tensorflow_hub's ``resolver.py``.
    """
    cache = os.environ.get(CACHE_VARIABLE)
    if not cache:
        return None
    name = hashlib.sha1(handle.encode("utf-8"), usedforsecurity=False).hexdigest()
    folder = Path(cache) / name
    return folder if (folder / _GRAPH).is_file() else None


class HubFetcher(Fetcher[HubSource]):
    """Fetches a :class:`~kiln.recipes.source.HubSource`."""

    @property
    def packed(self) -> Packed:
        """The packed module."""
        return Packed(
            model=self.recipe.name,
            url=self.source.address,
            root="",
            git_blob_sha1=None,
            mirrors=self.source.mirrors,
            sha256=self.source.sha256,
            files=self.source.files,
        )

    def at_hand(self) -> bool:
        """Whether the module is in a local cache, or packed in the store."""
        return cache_folder(self.source.handle) is not None or at_hand(self.packed, self.store)

    def fetch(self, options: Options) -> Fetched:
        """Take the module out of a cache or an archive.

        A cache is used where its files can be verified: against the recipe's pins of files, or,
        where the recipe pins nothing, against the files first used here. A recipe that pins only
        the packed module gets that.

        Raises:
            SourceUnavailableError, DigestMismatchError, ArchiveError: see
                :func:`kiln.sources.packed.archive_files`.
        """
        folder = cache_folder(self.source.handle)
        may_use_cache = self.source.files or self.source.sha256 is None
        if options.archive is None and folder is not None and may_use_cache:
            files = _cached_files(folder, self.store)
            check_files(self.packed, self.store, files)
            record: dict[str, Any] = {"from": "cache"}
        else:
            files, record = archive_files(self.packed, self.store, options)
            record["from"] = "archive"
        record |= {"kind": self.source.kind, "handle": self.source.handle}
        if _GRAPH not in files:
            raise ArchiveError(
                f"The module of {self.recipe.name!r} holds no {_GRAPH} at its top.",
                "A TF2 module is a SavedModel packed without a folder around it; see "
                "source.handle.",
            )
        self._refuse_another(files)
        record |= {"files": dict(files), "prebuilt": None}
        return Fetched(Contents(checkpoint=files), record, files)

    def _refuse_another(self, files: dict[str, str]) -> None:
        """Refuse a module other than the one that was first used for the model.

        Raises:
            DigestMismatchError: the files differ.
        """
        model, handle = self.recipe.name, self.source.handle
        known = self.store.get_ref(_TREE_REF, model)
        if known is None or known["handle"] != handle:
            self.store.set_ref(_TREE_REF, model, {"handle": handle, "files": files})
        elif known["files"] != files:
            different = sorted(
                path
                for path in {*files, *known["files"]}
                if files.get(path) != known["files"].get(path)
            )
            raise DigestMismatchError(
                f"The module of {model!r} is not the one that was first used here: "
                f"{different[0]} differs.",
                "If you trust the new one, pin its files in the recipe, in [[source.files]], "
                "under a new model name.",
            )


def _cached_files(folder: Path, store: Store) -> dict[str, str]:
    try:
        listing = list_tree(folder)
    except TooMuchError as error:
        raise ArchiveError(
            f"{folder} is not a module: {error}.", "Fetch the module into the hub cache again."
        ) from None
    for name, why in sorted(listing.odd.items()):
        if why != EMPTY:  # TensorFlow leaves an empty assets/
            raise ArchiveError(
                f"{folder / name} {why}.", "Fetch the module into the hub cache again."
            )
    return {name: store.add_file(path) for name, path in sorted(listing.files.items())}
