"""A TF-Hub feature vector: from a hub cache on this machine, or as a packed download."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.core.errors import ArchiveError, DigestMismatchError
from kiln.core.listing import TooMuchError, list_tree
from kiln.core.store import Store
from kiln.recipes.recipe import HubSource
from kiln.sources.archive import Packed, archive_files, at_hand, check_files

if TYPE_CHECKING:
    from kiln.sources.download import OnProgress

#: Set by whoever uses TF-Hub offline; tensorflow_hub reads the same variable.
CACHE_VARIABLE = "TFHUB_CACHE_DIR"

_TREE_REF = "hub-tree"
_GRAPH = "saved_model.pb"


def cache_folder(handle: str) -> Path | None:
    """Where a hub cache keeps the module, if there is a cache and it holds the module.

    The folder is called by the SHA-1 of the handle, as in tensorflow_hub's ``resolver.py``.
    """
    cache = os.environ.get(CACHE_VARIABLE)
    if not cache:
        return None
    name = hashlib.sha1(handle.encode("utf-8"), usedforsecurity=False).hexdigest()
    folder = Path(cache) / name
    return folder if (folder / _GRAPH).is_file() else None


def hub_at_hand(model: str, source: HubSource, store: Store) -> bool:
    """Whether the module is here: in a cache, or packed in the store."""
    return cache_folder(source.handle) is not None or at_hand(Packed.of(model, source), store)


def hub_files(
    model: str,
    source: HubSource,
    store: Store,
    archive: Path | None,
    on_progress: OnProgress | None,
    on_note: Callable[[str], None] | None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """The verified files of a module (path -> SHA-256), and a record of where they came from.

    A cache is used where it can be held against something: the recipe's pins of files, or, where
    the recipe pins nothing, the files first used here. A recipe that only pins the packed module
    gets that.

    Raises:
        SourceUnavailableError, DigestMismatchError, ArchiveError: see
            :func:`kiln.sources.archive.archive_files`.
    """
    packed = Packed.of(model, source)
    folder = cache_folder(source.handle)
    if archive is None and folder is not None and (source.files or source.sha256 is None):
        files = _cached_files(folder, store)
        check_files(packed, store, files)
        record: dict[str, Any] = {"kind": "hub", "handle": source.handle, "from": "cache"}
    else:
        files, record = archive_files(packed, store, archive, on_progress, on_note)
        record = {**record, "kind": "hub", "handle": source.handle, "from": "archive"}
    if _GRAPH not in files:
        raise ArchiveError(
            f"The module of {model!r} holds no {_GRAPH} at its top.",
            "A TF2 module is a SavedModel packed without a folder around it; see source.handle.",
        )
    known = store.get_ref(_TREE_REF, model)
    if known is None or known["handle"] != source.handle:
        store.set_ref(_TREE_REF, model, {"handle": source.handle, "files": files})
    elif known["files"] != files:
        different = sorted(
            path
            for path in {*files, *known["files"]}
            if files.get(path) != known["files"].get(path)
        )
        raise DigestMismatchError(
            f"The module of {model!r} is not the one that was first used here: {different[0]} "
            "differs.",
            "If you trust the new one, pin its files in the recipe, in [[source.files]], under a "
            "new model name.",
        )
    return files, record


def _cached_files(folder: Path, store: Store) -> dict[str, str]:
    try:
        listing = list_tree(folder)
    except TooMuchError as error:
        raise ArchiveError(
            f"{folder} is no module: {error}.", "Fetch the module into the hub cache again."
        ) from None
    for name, why in sorted(listing.odd.items()):
        if "empty folder" not in why:  # TensorFlow leaves an empty assets/
            raise ArchiveError(
                f"{folder / name} {why}.", "Fetch the module into the hub cache again."
            )
    return {name: store.add_file(path) for name, path in sorted(listing.files.items())}
