"""A recipe's source, fetched and verified: everything a plan starts from, by digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kiln.core.errors import CheckpointError, ImageSetError, LabelMapError, RecipeError, UsageError
from kiln.core.store import Store
from kiln.recipes.plan import Sources
from kiln.recipes.recipe import (
    ANYWHERE_SOURCES,
    ArchiveSource,
    HubSource,
    LocalSource,
    Recipe,
    SavedModelSource,
    StageSource,
)
from kiln.sources.archive import Packed, archive_files, at_hand
from kiln.sources.hub import hub_at_hand, hub_files
from kiln.sources.local import check_labels, find, local_files
from kiln.sources.saved_model import find_saved_model, saved_model_files

if TYPE_CHECKING:
    from kiln.sources.download import OnProgress

#: Decoded by Pillow inside the image; anything else in an image folder (licences) is left alone.
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})


@dataclass(frozen=True)
class Acquired:
    """Sources with a record of where they came from (plain data for ``conversion.json``).

    ``check_images`` are those that variants are checked on, name -> SHA-256.
    """

    sources: Sources
    record: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    check_images: Mapping[str, str] = field(default_factory=dict)


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
        CheckpointError: there is no checkpoint where the recipe says.
        UnsupportedModelError: a local model cannot be converted.
        LabelMapError, ImageSetError, RecipeError: a file the recipe names is missing.
        UsageError: ``archive`` was given for a recipe that has none.
    """
    record: dict[str, Any]
    checkpoint: Mapping[str, str] = {}
    saved_model: Mapping[str, str] = {}
    config: str | None = None
    inputs: dict[str, str] = {}
    prebuilt = None
    source = recipe.source
    if archive is not None and isinstance(source, (StageSource, *ANYWHERE_SOURCES)):
        what = "an embedded sample" if isinstance(source, StageSource) else "made of local files"
        raise UsageError(
            f"Model {recipe.name!r} is {what} and takes no --archive.",
            "Name the model whose archive it is.",
        )
    label_map, label_map_path = _label_map(recipe, store)
    if isinstance(source, StageSource):
        inputs = _stage_inputs(recipe, source, store)
        record = {"kind": "stage", "stage": source.stage, "inputs": dict(inputs)}
    elif isinstance(source, LocalSource):
        checkpoint, record = local_files(recipe, source, store, on_note)
        record["files"] = dict(checkpoint)
    elif isinstance(source, SavedModelSource):
        saved_model, config, record = saved_model_files(recipe, source, store)
        record["files"] = dict(saved_model)
    else:
        if isinstance(source, HubSource):
            files, record = hub_files(recipe.name, source, store, archive, on_progress, on_note)
            checkpoint = files
        else:
            packed = Packed.of(recipe.name, source)
            files, record = archive_files(packed, store, archive, on_progress, on_note)
            checkpoint = _checkpoint_files(recipe, source, files)
            prebuilt = _prebuilt(recipe, source, files)
        record["files"] = dict(checkpoint)
        record["prebuilt"] = prebuilt
        if label_map_path is not None:
            if label_map_path not in files:
                raise LabelMapError(
                    f"The archive of {recipe.name!r} holds no {label_map_path}.",
                    "Correct labels.in_source in the recipe, or name a file with labels.file.",
                )
            label_map = files[label_map_path]
    images = _images(recipe, store)
    check_images = _check_images(recipe, store, images)
    record["label_map"] = label_map or label_map_path
    record["calibration_images"] = images
    sources = Sources(
        checkpoint=checkpoint,
        saved_model=saved_model,
        config=config,
        inputs=inputs,
        prebuilt=prebuilt,
        label_map=label_map,
        label_map_path=None if label_map else label_map_path,
        images=images,
    )
    return Acquired(sources, record, check_images=check_images)


def source_at_hand(recipe: Recipe, store: Store) -> bool:
    """Whether a build would need no download for this model's source."""
    source = recipe.source
    if isinstance(source, StageSource):
        return all(recipe.resolve(item.path).is_file() for item in source.inputs.values())
    if isinstance(source, LocalSource):
        try:
            find(recipe.resolve(source.checkpoint), tf1=recipe.image == "modelmaker")
        except CheckpointError:
            return False
        return True
    if isinstance(source, SavedModelSource):
        try:
            find_saved_model(recipe.resolve(source.path))
        except CheckpointError:
            return False
        return True
    if isinstance(source, HubSource):
        return hub_at_hand(recipe.name, source, store)
    return at_hand(Packed.of(recipe.name, source), store)


def _stage_inputs(recipe: Recipe, source: StageSource, store: Store) -> dict[str, str]:
    inputs = {}
    for name, item in source.inputs.items():
        path = recipe.resolve(item.path)
        if not path.is_file():
            raise RecipeError(
                f"Recipe {recipe.name!r} names {item.path}, which does not exist.",
                "Restore the file from version control.",
            )
        inputs[name] = store.add_file(path, expect=item.sha256)
    return inputs


def _label_map(recipe: Recipe, store: Store) -> tuple[str | None, str | None]:
    if recipe.labels.file is None:
        return None, recipe.labels.in_source
    path = recipe.resolve(recipe.labels.file)
    if isinstance(recipe.source, ANYWHERE_SOURCES):
        check_labels(path, None)
    elif not path.is_file():
        raise LabelMapError(
            f"Recipe {recipe.name!r} names the label map {recipe.labels.file}, "
            "which does not exist.",
            "Correct labels.file in the recipe.",
        )
    return store.add_file(path.resolve()), None


def _images(recipe: Recipe, store: Store) -> dict[str, str]:
    if recipe.calibration is None:
        return {}
    return _image_folder(
        recipe,
        recipe.calibration.images,
        store,
        "calibration images",
        "Put PNG or JPEG photos like the ones the model will see there, or drop the int8 variant.",
    )


def _check_images(recipe: Recipe, store: Store, calibration: Mapping[str, str]) -> dict[str, str]:
    """Name -> SHA-256 of the images that variants are checked on: by default the calibration's.

    Raises:
        ImageSetError: there is none, or not the one that a ``check.expect`` names.
    """
    found = dict(calibration)
    if recipe.check.images is not None:
        found = _image_folder(
            recipe,
            recipe.check.images,
            store,
            "images to check the variants on",
            "Put PNG or JPEG photos with objects that the model knows there, or drop check.images.",
        )
    for item in recipe.check.expect:
        if item.image not in found:
            raise ImageSetError(
                f"Recipe {recipe.name!r} expects {item.label!r} in {item.image}, which is not "
                f"among its check images: {', '.join(sorted(found)) or 'there are none'}.",
                "Correct check.expect in the recipe, or add the image.",
            )
    return found


def _image_folder(
    recipe: Recipe, relative: str, store: Store, what: str, remedy: str
) -> dict[str, str]:
    """The images of a folder, name -> SHA-256, by name.

    Raises:
        ImageSetError: there is no such folder, or no image in it.
    """
    folder = recipe.resolve(relative)
    found = images_in(folder, store)
    if not found:
        raise ImageSetError(
            f"Recipe {recipe.name!r} needs {what}, and {folder} holds none.", remedy
        )
    return found


def images_in(folder: Path, store: Store) -> dict[str, str]:
    """Name -> SHA-256 of the images in a folder, by name; empty where there is no such folder."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        path.name: store.add_file(path.resolve())
        for path in found
        if path.suffix.lower() in IMAGE_SUFFIXES
    }


def with_images_to_check(acquired: Acquired, samples: Path, store: Store) -> Acquired:
    """``acquired`` with images to check on: its own, or where it has none those in ``samples``."""
    images = acquired.check_images or images_in(samples, store)
    return replace(acquired, sources=replace(acquired.sources, check_images=images))


def _checkpoint_files(
    recipe: Recipe, source: ArchiveSource, files: Mapping[str, str]
) -> dict[str, str]:
    """Only what the export reads: the configuration and the checkpoint, in the zoo's layout."""
    chosen = {}
    if source.pipeline_config is not None:
        if source.pipeline_config not in files:
            raise CheckpointError(
                f"The archive of {recipe.name!r} holds no {source.pipeline_config}.",
                "Correct source.pipeline_config in the recipe.",
            )
        chosen["pipeline.config"] = files[source.pipeline_config]
    prefix = source.checkpoint.rstrip("/")
    # "." is the archive's root, where automl's archives have their checkpoints.
    starts = ("",) if prefix == "." else (f"{prefix}/", f"{prefix}.")
    checkpoint = {
        f"checkpoint/{PurePosixPath(path).name}": digest
        for path, digest in files.items()
        if path.startswith(starts) and (prefix != "." or "/" not in path)
    }
    if not any(path.endswith(".index") for path in checkpoint):
        raise CheckpointError(
            f"The archive of {recipe.name!r} holds no checkpoint at {source.checkpoint} "
            "(no .index file).",
            "Correct source.checkpoint in the recipe; it names a folder or a checkpoint prefix.",
        )
    return {**chosen, **checkpoint}


def _prebuilt(recipe: Recipe, source: ArchiveSource, files: Mapping[str, str]) -> str | None:
    """SHA-256 of the archive's ready ``.tflite``, where the recipe names one."""
    if source.prebuilt is None:
        return None
    if source.prebuilt not in files:
        raise CheckpointError(
            f"The archive of {recipe.name!r} holds no {source.prebuilt}.",
            "Correct source.prebuilt in the recipe, or drop it and the variant 'prebuilt'.",
        )
    return files[source.prebuilt]
