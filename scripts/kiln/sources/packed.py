"""Fetch, verify and unpack the archive that a source is published as."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.archive import unpack
from kiln.core.digest import git_blob_sha1_file
from kiln.core.errors import ArchiveError, DigestMismatchError, SourceUnavailableError, UsageError
from kiln.core.store import DamagedContentError, Store
from kiln.recipes.source import SourceFile
from kiln.sources.fetcher import Options
from kiln.sources.pins import mismatch

_ARCHIVE_REF = "archive"
_TREE_REF = "archive-tree"


@dataclass(frozen=True)
class Packed:
    """A recipe's archive.

    Args:
        model: the recipe's name.
        root: the archive's top folder; ``""`` where its files are at the top; ``None`` for the
            only folder there.
        files: pins of files inside.
    """

    model: str
    url: str
    root: str | None
    git_blob_sha1: str | None
    mirrors: tuple[str, ...]
    sha256: str | None
    files: tuple[SourceFile, ...]


def trusted_digest(packed: Packed, store: Store) -> str | None:
    """Return the SHA-256 that the archive must have: pinned, or of the first one used here."""
    known = remembered(store, packed.model)
    return packed.sha256 or (known[1] if known and known[0] == packed.url else None)


def remembered(store: Store, model: str) -> tuple[str, str] | None:
    """Return address and SHA-256 of the archive first used for a model without a pin."""
    known = store.get_ref(_ARCHIVE_REF, model)
    return None if known is None else (known["url"], known["sha256"])


def remember(store: Store, model: str, url: str, digest: str) -> None:
    """Record these bytes as the only ones accepted here for ``model`` from ``url``."""
    store.set_ref(_ARCHIVE_REF, model, {"url": url, "sha256": digest})


def at_hand(packed: Packed, store: Store) -> bool:
    """Whether the store holds the archive."""
    digest = trusted_digest(packed, store)
    return digest is not None and store.has(digest)


def archive_files(
    packed: Packed, store: Store, options: Options
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the archive's verified files (path below its root -> SHA-256), and a record.

    Raises:
        SourceUnavailableError, DigestMismatchError, ArchiveError: the archive cannot be fetched,
            is not the pinned one, or cannot be unpacked.
        UsageError: there is no file ``options.archive``.
    """
    archive = options.archive
    trusted = trusted_digest(packed, store)
    if archive is not None:
        if not archive.is_file():
            raise UsageError(f"There is no file {archive}.", "Check the path given to --archive.")
        with _first_use_holds(packed, trusted):
            digest = store.add_file(archive, expect=trusted)
    elif trusted and store.has(trusted):
        digest = trusted
    else:
        from kiln.sources.download import Download, fetch  # slow to import, rarely needed

        download = Download(
            urls=(packed.url, *packed.mirrors), size=None, sha256=trusted, name=packed.model
        )
        try:
            with _first_use_holds(packed, trusted):
                digest = fetch([download], store, on_progress=options.on_progress)[packed.model]
        except SourceUnavailableError as error:
            error.remedy = (
                f"Get {packed.url} by other means and run "
                f"`kiln build {packed.model} --archive FILE`. {error.remedy}"
            )
            raise
    tree = store.get_ref(_TREE_REF, f"{digest}-{packed.model}")
    if tree is not None and all(store.has(item) for item in tree["files"].values()):
        files: dict[str, str] = tree["files"]
    else:
        files = _unpack_and_verify(packed, store, digest)
        store.set_ref(_TREE_REF, f"{digest}-{packed.model}", {"files": files})
    check_files(packed, store, files)
    if trusted is None:
        remember(store, packed.model, packed.url, digest)  # trust on first use
        if options.on_note:
            options.on_note(
                f"{packed.model}: first use of this archive. Pin it in the recipe, in [source]: "
                f'sha256 = "{digest}"'
            )
    record = {"kind": "archive", "url": packed.url, "sha256": digest, "pinned": bool(packed.sha256)}
    return files, record


@contextlib.contextmanager
def _first_use_holds(packed: Packed, trusted: str | None) -> Iterator[None]:
    """Explain how to accept an archive other than the first one used, which no pin names.

    Raises:
        DigestMismatchError: the body raised one.
    """
    try:
        yield
    except DigestMismatchError as error:
        if packed.sha256 or trusted is None:
            raise
        raise DigestMismatchError(
            f"The archive of {packed.model!r} is not the one that was first used here: "
            f"{error.message}",
            "If its publisher changed it and you trust the new one, pin that in the recipe, in "
            "[source], with its sha256.",
        ) from error


def _unpack_and_verify(packed: Packed, store: Store, digest: str) -> dict[str, str]:
    path = store.path(digest)
    if not store.sound(digest):  # not every archive format detects damage
        raise DamagedContentError(digest, f"the archive of {packed.model}")
    try:
        if packed.git_blob_sha1 and git_blob_sha1_file(path) != packed.git_blob_sha1:
            raise DigestMismatchError(
                f"The archive of {packed.model!r} is not the published one (its git blob SHA-1 is "
                f"{git_blob_sha1_file(path)}, not {packed.git_blob_sha1}).",
                "Download it again. For a model of your own, write a recipe of its own.",
            )
        with store.scratch() as scratch:
            try:
                unpack(path, scratch / "tree", root=packed.root or None)
            except ArchiveError as error:
                # The store's file name is a digest, which says nothing to the user.
                told = error.message.replace(path.name, f"The archive of {packed.model!r}")
                raise ArchiveError(told, error.remedy) from error
            blobs = store.add_tree(_top(scratch / "tree", packed))
    except BaseException:
        store.discard(digest)
        raise
    return {name: blob.sha256 for name, blob in blobs.items()}


def _top(tree: Path, packed: Packed) -> Path:
    """Return the folder of the unpacked archive that the recipe's paths start from.

    Raises:
        ArchiveError: the recipe names none, and the archive does not have exactly one.
    """
    if packed.root is not None:
        return tree / packed.root
    found = sorted(tree.iterdir())
    if len(found) != 1 or not found[0].is_dir():
        names = ", ".join(repr(path.name) for path in found[:8])
        raise ArchiveError(
            f"The archive of {packed.model!r} has {names} at its top, not one folder.",
            "Name the folder in the recipe, in source.root.",
        )
    return found[0]


def check_files(packed: Packed, store: Store, files: Mapping[str, str]) -> None:
    """Check unpacked files (path -> SHA-256) against their pins.

    Raises:
        DigestMismatchError: one is missing or differs.
        DamagedContentError: the stored copy is damaged.
    """
    for pinned in packed.files:
        if pinned.path not in files:
            raise DigestMismatchError(
                f"The archive of {packed.model!r} holds no {pinned.path}.",
                "It is not the archive the recipe describes: download it again.",
            )
        problem = mismatch(pinned, store.path(files[pinned.path]))
        if problem and not store.sound(files[pinned.path]):
            raise DamagedContentError(files[pinned.path], f"{pinned.path} of {packed.model}")
        if problem:
            raise DigestMismatchError(
                f"{pinned.path} in the archive of {packed.model!r} is not the published file: "
                f"{problem}.",
                "Download the archive again. For a model of your own, write a recipe of its own.",
            )
