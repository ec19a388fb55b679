"""Fetch and verify everything a plan starts from: a recipe's source, label map and images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kiln.core import git_lfs
from kiln.core.errors import (
    CheckpointError,
    ImageSetError,
    LabelMapError,
    UnsupportedModelError,
    UsageError,
)
from kiln.core.store import Store
from kiln.recipes import pipeline_config
from kiln.recipes.contents import Contents
from kiln.recipes.recipe import Recipe
from kiln.sources import pictures
from kiln.sources.fetcher import Options
from kiln.sources.kinds import fetcher_of
from kiln.sources.local import CONFIG, check_labels


@dataclass(frozen=True)
class Acquired:
    """A recipe's inputs in the store, with a record of their origin.

    Attributes:
        contents: the inputs by digest. Its ``check_images`` are those of the recipe.
        record: plain data for ``conversion.json``.
    """

    contents: Contents
    record: dict[str, Any] = field(default_factory=dict)


def acquire(recipe: Recipe, store: Store, options: Options | None = None) -> Acquired:
    """Fetch everything ``recipe`` starts from into the store, and verify it.

    Raises:
        SourceUnavailableError, DigestMismatchError, ArchiveError: the archive cannot be fetched,
            is not the pinned one, or cannot be unpacked.
        CheckpointError: there is no checkpoint where the recipe says.
        UnsupportedModelError: a local model cannot be converted.
        LabelMapError, ImageSetError, RecipeError: a file the recipe names is missing.
        UsageError: ``options.archive`` was given for a recipe that has none.
    """
    options = options or Options()
    fetcher = fetcher_of(recipe, store)
    if options.archive is not None and fetcher.packed is None:
        what = "made of local files" if recipe.source.only_here else "an embedded sample"
        raise UsageError(
            f"Model {recipe.name!r} is {what} and takes no --archive.",
            "Name the model whose archive it is.",
        )
    label_map, label_map_path = _label_map(recipe, store)
    fetched = fetcher.fetch(options)
    if label_map_path is not None and fetched.files:
        if label_map_path not in fetched.files:
            raise LabelMapError(
                f"The archive of {recipe.name!r} holds no {label_map_path}.",
                "Correct labels.in_source in the recipe, or name a file with labels.file.",
            )
        label_map = fetched.files[label_map_path]
    model = _configured(fetched.contents, store)
    if recipe.export.inference_io == "int8" and model is not None:
        _refuse_int8_input(recipe, model.extractor)
    if recipe.labels.file is not None and not recipe.source.only_here:
        classes = None if model is None else model.num_classes
        with _about(recipe):
            notes = check_labels(recipe.resolve(recipe.labels.file), classes)
        options.tell(recipe.name, notes)
    if fetcher.packed is not None:
        _refuse_pointers(recipe, store, fetched.contents, label_map)
    images = _images(recipe, store)
    contents = replace(
        fetched.contents,
        label_map=label_map,
        label_map_path=None if label_map else label_map_path,
        images=images,
        check_images=_check_images(recipe, store, images),
    )
    more = {"label_map": label_map or label_map_path, "calibration_images": images}
    return Acquired(contents, fetched.record | more)


def source_at_hand(recipe: Recipe, store: Store) -> bool:
    """Whether a build needs no download for this model's source."""
    return fetcher_of(recipe, store).at_hand()


def _label_map(recipe: Recipe, store: Store) -> tuple[str | None, str | None]:
    if recipe.labels.file is None:
        return None, recipe.labels.in_source
    path = recipe.resolve(recipe.labels.file)
    if recipe.source.only_here:
        check_labels(path, None)
    elif not path.is_file():
        raise LabelMapError(
            f"Recipe {recipe.name!r} names the label map {recipe.labels.file}, "
            "which does not exist.",
            "Correct labels.file in the recipe.",
        )
    return store.add_file(path.resolve()), None


@contextlib.contextmanager
def _about(recipe: Recipe) -> Iterator[None]:
    """Put the model's name before messages about its files: it may be one of several."""
    try:
        yield
    except (ImageSetError, LabelMapError) as error:
        raise type(error)(f"{recipe.name}: {error.message}", error.remedy) from None


def _refuse_pointers(
    recipe: Recipe, store: Store, contents: Contents, label_map: str | None
) -> None:
    """Refuse an archive of a repository whose large files were never fetched.

    Raises:
        CheckpointError, LabelMapError: a file that is needed is a Git LFS pointer.
    """
    needed = [*contents.checkpoint.items(), *contents.saved_model.items()]
    if contents.prebuilt is not None:
        needed.append(("the ready .tflite", contents.prebuilt))
    for name, digest in needed:
        path = f"{name} in the archive of {recipe.name!r}"
        git_lfs.refuse_pointer(store.path(digest), CheckpointError, path)
    if label_map is not None:
        path = f"{recipe.labels.in_source} in the archive of {recipe.name!r}"
        git_lfs.refuse_pointer(store.path(label_map), LabelMapError, path)


def _configured(contents: Contents, store: Store) -> pipeline_config.Pipeline | None:
    """Return what the source's configuration describes; ``None`` if it has none."""
    config = contents.checkpoint.get(CONFIG, contents.config)
    if config is None:
        return None
    # A configuration that cannot be used is refused elsewhere, under a better name than a digest.
    with contextlib.suppress(UnsupportedModelError):
        data = store.read(config, f"{CONFIG} of the source")
        return pipeline_config.described(data, CONFIG)
    return None


def _refuse_int8_input(recipe: Recipe, extractor: str) -> None:
    """Refuse an int8 input that the model's feature extractor rules out.

    Raises:
        UnsupportedModelError: it does.
    """
    why = recipe.why_not_int8(extractor)
    if why:
        raise UnsupportedModelError(
            f"Recipe {recipe.name!r} asks for an int8 input (export.inference_io), but {why}.",
            "Leave out export.inference_io: the int8 file then has a float input.",
        )


def _images(recipe: Recipe, store: Store) -> dict[str, str]:
    if recipe.calibration is None:
        return {}
    return _image_folder(
        recipe,
        recipe.calibration.images,
        store,
        "calibration images",
        "Or drop the int8 variant.",
    )


def _check_images(recipe: Recipe, store: Store, calibration: Mapping[str, str]) -> dict[str, str]:
    """Return the images that variants are checked on, name -> SHA-256.

    By default these are the calibration images.

    Raises:
        ImageSetError: there is none, or one that ``check.expect`` names is missing.
    """
    found = dict(calibration)
    if recipe.check.images is not None:
        found = _image_folder(
            recipe,
            recipe.check.images,
            store,
            "images to check the variants on",
            "Or drop check.images: the calibration images are used then.",
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
    """Return the images of a folder, name -> SHA-256, sorted by name.

    Raises:
        ImageSetError: the folder does not exist, holds no image, or holds a damaged one.
    """
    folder = recipe.resolve(relative)
    with _about(recipe):
        found = images_in(folder, store)
    if not found:
        none = pictures.none_in(folder)
        raise ImageSetError(
            f"Recipe {recipe.name!r} needs {what}. {none.message}", f"{none.remedy} {remedy}"
        )
    return found


def images_in(folder: Path, store: Store) -> dict[str, str]:
    """Return the images of a folder, name -> SHA-256, sorted by name; empty without a folder.

    Raises:
        ImageSetError: one is not whole, or is no image.
    """
    found = pictures.pictures(folder) if folder.is_dir() else []
    for path in found:
        pictures.refuse_damaged(path)
    return {path.name: store.add_file(path.resolve()) for path in found}


def with_images_to_check(acquired: Acquired, samples: Path, store: Store) -> Acquired:
    """Return ``acquired`` with images to check on: its own, else those in ``samples``."""
    images = acquired.contents.check_images or images_in(samples, store)
    return replace(acquired, contents=replace(acquired.contents, check_images=images))
