"""A recipe's source, fetched and verified: everything a plan starts from, by digest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.archive import unpack
from kiln.digest import git_blob_sha1_file, sha256_file
from kiln.errors import (
    ArchiveError,
    CheckpointError,
    DigestMismatchError,
    ImageSetError,
    LabelMapError,
    RecipeError,
    SourceUnavailableError,
    UsageError,
)
from kiln.plan import Sources
from kiln.recipe import ArchiveSource, Recipe, SourceFile, StageSource
from kiln.store import Store

if TYPE_CHECKING:
    from kiln.sources.download import OnProgress

#: Decoded by Pillow inside the image; anything else in an image folder (licences) is left alone.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})

_ARCHIVE_REF = "archive"
_TREE_REF = "archive-tree"


@dataclass(frozen=True)
class Acquired:
    """Sources with a record of where they came from (plain data for ``conversion.json``)."""

    sources: Sources
    record: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def acquire(
    recipe: Recipe,
    store: Store,
    *,
    archive: Path | None = None,
    on_progress: OnProgress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Acquired:
    """Bring everything ``recipe`` starts from into the store, verified.

    Args:
        archive: a file the user has already, used instead of downloading the recipe's archive.

    Raises:
        SourceUnavailableError, DigestMismatchError, ArchiveError: the archive.
        CheckpointError: the archive holds no checkpoint where the recipe says.
        LabelMapError, ImageSetError, RecipeError: a file the recipe names is missing.
        UsageError: ``archive`` was given for a recipe that has none.
    """
    record: dict[str, Any]
    checkpoint: Mapping[str, str] = {}
    inputs: dict[str, str] = {}
    if isinstance(recipe.source, StageSource):
        if archive is not None:
            raise UsageError(
                f"Model {recipe.name!r} is an embedded sample and takes no --archive.",
                "Name the model whose archive it is.",
            )
        for name, item in recipe.source.inputs.items():
            path = recipe.resolve(item.path)
            if not path.is_file():
                raise RecipeError(
                    f"Recipe {recipe.name!r} names {item.path}, which does not exist.",
                    "Restore the file from version control.",
                )
            inputs[name] = store.add_file(path, expect=item.sha256)
        record = {"kind": "stage", "stage": recipe.source.stage, "inputs": dict(inputs)}
    else:
        files, record = _archive_files(recipe, recipe.source, store, archive, on_progress, on_note)
        checkpoint = _checkpoint_files(recipe, recipe.source, files)
        record["files"] = dict(checkpoint)
    label_map, label_map_path = _label_map(recipe, store)
    if label_map_path is not None and isinstance(recipe.source, ArchiveSource):
        if label_map_path not in files:
            raise LabelMapError(
                f"The archive of {recipe.name!r} holds no {label_map_path}.",
                "Correct labels.in_source in the recipe, or name a file with labels.file.",
            )
        label_map = files[label_map_path]
    images = _images(recipe, store)
    record["label_map"] = label_map or label_map_path
    record["calibration_images"] = images
    sources = Sources(
        checkpoint=checkpoint,
        inputs=inputs,
        label_map=label_map,
        label_map_path=None if label_map else label_map_path,
        images=images,
    )
    return Acquired(sources, record)


def _label_map(recipe: Recipe, store: Store) -> tuple[str | None, str | None]:
    if recipe.labels.file is None:
        return None, recipe.labels.in_source
    path = recipe.resolve(recipe.labels.file)
    if not path.is_file():
        raise LabelMapError(
            f"Recipe {recipe.name!r} names the label map {recipe.labels.file}, "
            "which does not exist.",
            "Correct labels.file in the recipe.",
        )
    return store.add_file(path), None


def _images(recipe: Recipe, store: Store) -> dict[str, str]:
    if recipe.calibration is None:
        return {}
    folder = recipe.resolve(recipe.calibration.images)
    found = (
        sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if folder.is_dir()
        else []
    )
    if not found:
        raise ImageSetError(
            f"Recipe {recipe.name!r} needs calibration images, and {folder} holds none.",
            "Put PNG or JPEG photos like the ones the model will see there, or drop the int8 "
            "variant.",
        )
    return {path.name: store.add_file(path) for path in found}


def _archive_files(
    recipe: Recipe,
    source: ArchiveSource,
    store: Store,
    archive: Path | None,
    on_progress: OnProgress | None,
    on_note: Callable[[str], None] | None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """The verified contents of the archive: path below its root -> SHA-256."""
    known = store.get_ref(_ARCHIVE_REF, recipe.name)
    trusted = source.sha256 or (known["sha256"] if known and known["url"] == source.url else None)
    if archive is not None:
        if not archive.is_file():
            raise UsageError(f"There is no file {archive}.", "Check the path given to --archive.")
        with _first_use_holds(recipe, source, trusted):
            digest = store.add_file(archive, expect=trusted)
    elif trusted and store.has(trusted):
        digest = trusted
    else:
        from kiln.sources.download import Download, fetch  # slow to import, rarely needed

        download = Download(
            urls=(source.url, *source.mirrors), size=None, sha256=trusted, name=recipe.name
        )
        try:
            with _first_use_holds(recipe, source, trusted):
                digest = fetch([download], store, on_progress=on_progress)[recipe.name]
        except SourceUnavailableError as error:
            error.remedy = (
                f"Get {source.url} by other means and run "
                f"`kiln build {recipe.name} --archive FILE`. {error.remedy}"
            )
            raise
    tree = store.get_ref(_TREE_REF, f"{digest}-{recipe.name}")
    if tree is not None and all(store.has(item) for item in tree["files"].values()):
        files: dict[str, str] = tree["files"]
    else:
        files = _unpack_and_verify(recipe, source, store, digest)
        store.set_ref(_TREE_REF, f"{digest}-{recipe.name}", {"files": files})
    _check_files(recipe, source, store, files)
    if trusted is None:
        # Trust on first use: from now on only these bytes will do on this machine.
        store.set_ref(_ARCHIVE_REF, recipe.name, {"url": source.url, "sha256": digest})
        if on_note:
            on_note(
                f"{recipe.name}: first use of this archive. Pin it in the recipe, in [source]: "
                f'sha256 = "{digest}"'
            )
    record = {"kind": "archive", "url": source.url, "sha256": digest, "pinned": bool(source.sha256)}
    return files, record


@contextlib.contextmanager
def _first_use_holds(recipe: Recipe, source: ArchiveSource, trusted: str | None) -> Iterator[None]:
    """Say of another archive than the one first used how to accept it: there is no pin to change.

    Raises:
        DigestMismatchError: the body met one.
    """
    try:
        yield
    except DigestMismatchError as error:
        if source.sha256 or trusted is None:
            raise
        raise DigestMismatchError(
            f"The archive of {recipe.name!r} is not the one that was first used here: "
            f"{error.message}",
            "If its publisher changed it and you trust the new one, pin that in the recipe, in "
            "[source], with its sha256.",
        ) from error


def _unpack_and_verify(
    recipe: Recipe, source: ArchiveSource, store: Store, digest: str
) -> dict[str, str]:
    path = store.path(digest)
    try:
        if source.git_blob_sha1 and git_blob_sha1_file(path) != source.git_blob_sha1:
            raise DigestMismatchError(
                f"The archive of {recipe.name!r} is not the published one (its git blob SHA-1 is "
                f"{git_blob_sha1_file(path)}, not {source.git_blob_sha1}).",
                "Download it again. For a model of your own, write a recipe of its own.",
            )
        with store.scratch() as scratch:
            try:
                unpack(path, scratch / "tree", root=source.root)
            except ArchiveError as error:
                # In the store it is called by its digest, which nobody would recognise.
                told = error.message.replace(path.name, f"The archive of {recipe.name!r}")
                raise ArchiveError(told, error.remedy) from error
            blobs = store.add_tree(scratch / "tree" / source.root)
    except BaseException:
        store.discard(digest)
        raise
    return {name: blob.sha256 for name, blob in blobs.items()}


def _check_files(
    recipe: Recipe, source: ArchiveSource, store: Store, files: Mapping[str, str]
) -> None:
    for pinned in source.files:
        if pinned.path not in files:
            raise DigestMismatchError(
                f"The archive of {recipe.name!r} holds no {pinned.path}.",
                "It is not the archive the recipe describes: download it again.",
            )
        problem = _mismatch(pinned, store.path(files[pinned.path]))
        if problem:
            raise DigestMismatchError(
                f"{pinned.path} in the archive of {recipe.name!r} is not the published file: "
                f"{problem}.",
                "Download the archive again. For a model of your own, write a recipe of its own.",
            )


def _mismatch(pinned: SourceFile, path: Path) -> str | None:
    size = path.stat().st_size
    if pinned.size is not None and size != pinned.size:
        return f"{size} bytes, not {pinned.size}"
    if pinned.git_blob_sha1 and git_blob_sha1_file(path) != pinned.git_blob_sha1:
        return f"git blob SHA-1 {git_blob_sha1_file(path)}, not {pinned.git_blob_sha1}"
    if pinned.sha256 and sha256_file(path) != pinned.sha256:
        return f"SHA-256 {sha256_file(path)}, not {pinned.sha256}"
    return None


def _checkpoint_files(
    recipe: Recipe, source: ArchiveSource, files: Mapping[str, str]
) -> dict[str, str]:
    """Only what the export reads: the configuration and the checkpoint, in the zoo's layout."""
    if source.pipeline_config not in files:
        raise CheckpointError(
            f"The archive of {recipe.name!r} holds no {source.pipeline_config}.",
            "Correct source.pipeline_config in the recipe.",
        )
    prefix = source.checkpoint.rstrip("/")
    chosen = {
        path: digest
        for path, digest in files.items()
        if path.startswith((f"{prefix}/", f"{prefix}."))
    }
    if not any(path.endswith(".index") for path in chosen):
        raise CheckpointError(
            f"The archive of {recipe.name!r} holds no checkpoint at {source.checkpoint} "
            "(no .index file).",
            "Correct source.checkpoint in the recipe; it names a folder or a checkpoint prefix.",
        )
    return {
        "pipeline.config": files[source.pipeline_config],
        **{f"checkpoint/{os.path.basename(path)}": digest for path, digest in chosen.items()},  # noqa: PTH119
    }
