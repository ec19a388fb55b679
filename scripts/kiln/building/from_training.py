"""Complete a recipe from a training's files, for ``kiln init`` and ``kiln convert``.

:func:`settle` examines the files, fills in what the command line leaves open and refuses at once
what cannot be converted; :func:`kiln.building.recipe_writer.recipe_text` writes the recipe. Both
commands then build it like any other recipe.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from kiln.building.recipe_writer import Arguments
from kiln.core.digest import sha256_file
from kiln.core.errors import UsageError
from kiln.recipes import export_options, pipeline_config
from kiln.recipes.recipe import (
    CALIBRATED,
    Allowance,
    Architecture,
    InferenceIo,
    LiteSpec,
    OutputOrder,
    Postprocess,
    Variant,
)
from kiln.sources import pictures
from kiln.sources.local import (
    CONFIG,
    check_labels,
    chosen,
    find,
    find_config,
    readable,
    reading,
)
from kiln.sources.saved_model import find_saved_model

#: The default variants; int8 needs calibration images.
DEFAULT_VARIANTS: tuple[Variant, ...] = ("dynamic", "float32", "float16")

#: Folder names that do not describe the model; the folder above gives the name then.
_NAMELESS = {
    "checkpoint",
    "checkpoints",
    "train",
    "training",
    "model_dir",
    "export",
    "exported",
} | {
    "saved_model",
    "tflite",
}

_MAX_NAME = 100  # as in a recipe

_ENOUGH_IMAGES = 20  # to calibrate on; fewer may miss what activations reach

#: File endings that shells complete when the user means a checkpoint's prefix.
_PART = re.compile(r"\.(index|data-\d{5}-of-\d{5})\Z")


@dataclass(frozen=True)
class Given:
    """The command line's values; ``None`` and empty: not given.

    Args:
        checkpoint: a folder, a prefix, or one of a checkpoint's files.
        saved_model: the folder of an exported model; that or a checkpoint.
        mean: of its pixels, for all channels or for red, green and blue.
        std: likewise.
        spec: one of Model Maker's detectors; ``None``: an Object Detection API model.
        image_size: height and width in pixels.
        output_order: ``tf1`` or ``tf2``; it and the next seven are as in a recipe.
        allow: faults with which the model is published anyway.
    """

    checkpoint: Path | None
    label_map: Path
    saved_model: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pipeline_config: Path | None = None
    spec: str | None = None
    calibration: Path | None = None
    images: Path | None = None
    variants: tuple[str, ...] = ()
    max_detections: int | None = None
    score_threshold: float | None = None
    image_size: tuple[int, int] | None = None
    output_order: str = "tf2"
    regular_nms: bool = False
    nms_score_threshold: float | None = None
    nms_iou_threshold: float | None = None
    max_detections_per_class: int | None = None
    inference_io: str = "uint8"
    postprocess: str = "tflite"
    float_layers: tuple[str, ...] = ()
    name: str | None = None
    title: str | None = None
    description: str | None = None
    licence: str | None = None
    author: str | None = None
    version: str | None = None
    allow: tuple[str, ...] = ()


@reading()
def settle(
    given: Given, *, folder: Path | None = None, pin: bool = False, calibrates: bool = True
) -> tuple[Arguments, tuple[str, ...]]:
    """Complete a recipe's content from what was given and from the files; return it with notes.

    Args:
        folder: the recipe's folder, which gives it its name; ``None``: the name is made from the
            files' folders where none was given.
        pin: record the digests of the present files, and of a folder the checkpoint chosen in it.
        calibrates: whether an int8 file is going to be made; else the notes do not speak of it.

    Raises:
        CheckpointError: there is no whole checkpoint, or no pipeline.config.
        UnsupportedModelError: the model cannot be converted.
        LabelMapError: the label map is missing, invalid, or has another number of classes.
        ImageSetError: a folder of images holds none.
        UsageError: arguments contradict each other, or give no valid name.
    """
    _go_together(given)
    found = _saved_model(given) if given.saved_model is not None else _checkpoint(given)
    notes: list[str] = list(found.notes)
    calibration = given.calibration
    for images in dict.fromkeys((given.calibration, given.images)):
        notes += pictures.examine(images) if images is not None else []
    variants = _variants(given.variants, calibration or given.images)
    measured = " and ".join(variant for variant in CALIBRATED if variant in variants)
    if measured and calibration is None:
        calibration = given.images
        verb = "are" if " and " in measured else "is"
        notes.append(
            f"{measured} {verb} calibrated on the images in {given.images} (no --calibration)"
        )
    elif not given.variants and "int8" not in variants:
        notes.append(
            "no int8: it needs --calibration DIR, images like those that the model will see"
        )
    if calibrates and measured and calibration is not None:
        notes += _few(calibration, measured)
    _check_postprocess(given, variants, found)
    name = _name(given.name, folder, found.named_after)
    what = "checkpoint" if given.saved_model is None else "SavedModel"
    arguments = Arguments(
        name=name,
        title=given.title or name,
        description=given.description or f"An object detector, from the {what} of {name}.",
        licence=given.licence or "NOASSERTION",  # SPDX: nothing is claimed
        author=given.author or "unknown",
        version=given.version or "1",
        architecture=_one_of(found.architecture, Architecture),
        label_map=given.label_map,
        variants=variants,
        # `convert` pins what it read; a recipe without pins follows the training.
        checkpoint=(
            None
            if given.checkpoint is None
            else found.pinned
            if pin or folder is None
            else found.path
        ),
        saved_model=None if given.saved_model is None else found.path,
        mean=given.mean,
        std=given.std,
        pipeline_config=found.config,
        spec=None if given.spec is None else _one_of(given.spec, LiteSpec),
        calibration=calibration,
        images=given.images,
        max_detections=given.max_detections,
        score_threshold=given.score_threshold,
        image_size=given.image_size,
        output_order=_one_of(given.output_order, OutputOrder),
        suppression=_suppression(given, found.architecture),
        inference_io=_inference_io(given, variants, found),
        postprocess=_one_of(given.postprocess, Postprocess),
        float_layers=_float_layers(given, variants),
        allow=tuple(_one_of(item, Allowance) for item in dict.fromkeys(given.allow)),
        folder=folder,
        pins=_pins(found) if pin else {},
    )
    return arguments, tuple(notes)


def _go_together(given: Given) -> None:
    """Refuse contradictory or incomplete arguments.

    Raises:
        UsageError: they contradict each other.
    """
    if given.checkpoint is None and given.saved_model is None:
        raise UsageError(
            "There is no model to convert.",
            "Name the training's folder with --checkpoint; or, if there is only an "
            "exported SavedModel, name it with --saved-model.",
        )
    if given.checkpoint is not None and given.saved_model is not None:
        raise UsageError(
            "--checkpoint and --saved-model cannot be combined.",
            "The checkpoint is the better source: leave out --saved-model.",
        )
    if given.spec is not None and given.pipeline_config is not None:
        raise UsageError(
            "--model-maker and --pipeline-config cannot be combined.",
            "Model Maker's models have no pipeline.config: their spec describes them.",
        )
    if (given.mean is None) != (given.std is None):
        raise UsageError(
            "--mean and --std need each other.", "Give both, such as --mean 127.5 --std 127.5."
        )
    if given.mean is not None and (given.saved_model is None or given.spec is not None):
        raise UsageError(
            "--mean and --std only apply to an exported SavedModel.",
            "Leave them out: kiln measures them from the model's own preprocessing.",
        )
    fixed = {"max_detections": given.max_detections, "image_size": given.image_size}
    fixed |= export_options.given(vars(given))
    for key, value in fixed.items():
        if value is not None and given.saved_model is not None and given.spec is None:
            raise UsageError(
                f"{_option(key)} cannot change an exported SavedModel: it is fixed in its graph.",
                "Export it again, or convert its checkpoint.",
            )


def _suppression(given: Given, architecture: str) -> dict[str, bool | float | int]:
    """Return the options of how overlapping boxes are suppressed.

    Raises:
        UsageError: one has no effect on this model.
    """
    found = export_options.contradiction(vars(given), architecture)
    if found is not None:
        raise UsageError(
            f"{_option(found[0])} has no effect: {found[1]}.",
            f"Leave it out{'' if architecture == 'centernet' else ', or add --regular-nms'}.",
        )
    return export_options.given(vars(given))


def _inference_io(given: Given, variants: Sequence[str], found: _Found) -> InferenceIo:
    """Return the type of the int8 variant's input.

    Raises:
        UsageError: it cannot be had.
    """
    chosen: InferenceIo = _one_of(given.inference_io, InferenceIo)
    image = "odapi" if given.spec is None else "modelmaker"
    stated = None if given.mean is None or given.std is None else (given.mean, given.std)
    why = export_options.why_not_int8(variants, found.architecture, image, found.extractor, stated)
    if chosen == "int8" and why:
        more = "" if "int8" in variants else ", or name --calibration images"
        raise UsageError(f"--inference-io int8 cannot be: {why}.", f"Leave it out{more}.")
    return chosen


def _float_layers(given: Given, variants: Sequence[str]) -> tuple[str, ...]:
    """Return the names of what integer quantisation leaves in float.

    Whether the model has such layers, its conversion says: only that knows the graph.

    Raises:
        UsageError: nothing is quantised to integers, or a name is empty.
    """
    if given.float_layers and not set(CALIBRATED) & set(variants):
        more = "add --variant int8" if given.variants else "name --calibration images"
        raise UsageError(
            "--float-layer has no effect: it is for the variants int8 and int16x8, and neither is "
            "made.",
            f"Leave it out, or {more}.",
        )
    if "" in given.float_layers:
        raise UsageError(
            "--float-layer needs the name of a layer, or a kind of operator.",
            "`kiln explain-int8` lists the layers of a recipe's model; write one with `kiln init`.",
        )
    return tuple(dict.fromkeys(given.float_layers))


def _check_postprocess(given: Given, variants: Sequence[str], found: _Found) -> None:
    """Raise a UsageError where files without post-processing are wanted and cannot be had."""
    image, exported = "odapi" if given.spec is None else "modelmaker", given.saved_model is not None
    refused = export_options.why_not_raw(vars(given), found.architecture, image, exported, variants)
    if refused is not None:
        option, why = refused
        raise UsageError(f"--postprocess none cannot be: {why}.", f"Leave out {_option(option)}.")


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


@dataclass(frozen=True)
class _Found:
    """The source that the user named, after examination.

    Args:
        path: as the user named it.
        pinned: the path to use once its files are pinned.
        files: name in a recipe's ``source.files`` -> file.
        named_after: the folder that gives the model its name.
        notes: decisions to tell the user.
    """

    path: Path
    pinned: Path
    files: dict[str, Path]
    named_after: Path
    architecture: str
    config: Path | None = None
    extractor: str = ""
    notes: tuple[str, ...] = ()


def _checkpoint(given: Given) -> _Found:
    assert given.checkpoint is not None
    path = _without_part(given.checkpoint)
    config, classes, extractor = None, None, ""
    architecture: str = "efficientdet"
    if given.spec is None:
        config = _config(given.pipeline_config, path)
        pipeline = pipeline_config.read(config)
        pipeline_config.check_size(pipeline, given.image_size)
        architecture, classes = pipeline.architecture, pipeline.num_classes
        extractor = pipeline.extractor
    labels = check_labels(given.label_map, classes)
    checkpoint = find(path, tf1=given.spec is not None)
    taken = (chosen(checkpoint),) if checkpoint.others and path.is_dir() else ()
    return _Found(
        path=path,
        pinned=checkpoint.prefix,
        files={item.name: item for item in checkpoint.files},
        named_after=(config or checkpoint.prefix).parent,
        architecture=architecture,
        config=config,
        extractor=extractor,
        notes=(*taken, *labels),
    )


def _saved_model(given: Given) -> _Found:
    assert given.saved_model is not None
    saved = find_saved_model(given.saved_model)
    config, classes, extractor = None, None, ""
    architecture: str = saved.architecture if given.spec is None else "efficientdet"
    if given.pipeline_config is not None:
        config = given.pipeline_config
        find_config(config)
        config = config / CONFIG if config.is_dir() else config
        pipeline = pipeline_config.read(config)
        architecture, classes = pipeline.architecture, pipeline.num_classes
        extractor = pipeline.extractor
    labels = check_labels(given.label_map, classes)
    return _Found(
        path=saved.folder,
        pinned=saved.folder,
        files=dict(saved.files),
        named_after=saved.folder,
        architecture=architecture,
        config=config,
        extractor=extractor,
        notes=labels,
    )


def _without_part(path: Path) -> Path:
    """Return the checkpoint's prefix, where the user named one of its files."""
    return path.with_name(_PART.sub("", path.name)) if _PART.search(path.name) else path


def _config(given: Path | None, checkpoint: Path) -> Path:
    """Return the ``pipeline.config``: as given, or beside the checkpoint.

    Raises:
        CheckpointError: the given one does not exist.
        UsageError: none was given, and none is there.
    """
    if given is not None:
        find_config(given)
        return given / CONFIG if given.is_dir() else given
    near = [checkpoint] if checkpoint.is_dir() else []
    for folder in (*near, checkpoint.parent):
        if (folder / CONFIG).is_file():
            find_config(folder / CONFIG)
            return folder / CONFIG
    find(checkpoint, tf1=True)  # report faults of the checkpoint first
    raise UsageError(
        f"There is no pipeline.config beside {checkpoint}.",
        "Name it with --pipeline-config; for an EfficientDet-Lite of TFLite Model Maker, name its "
        "spec with --model-maker.",
    )


def _variants(given: Sequence[str], images: Path | None) -> tuple[Variant, ...]:
    if not given:
        return (*DEFAULT_VARIANTS, "int8") if images is not None else DEFAULT_VARIANTS
    if "prebuilt" in given:
        raise UsageError(
            "Variant 'prebuilt' is a publisher's own .tflite, which a checkpoint does not have.",
            'Write a recipe with a source of kind "archive" for it (docs/recipes.md).',
        )
    measured = [variant for variant in CALIBRATED if variant in given]
    if measured and images is None:
        raise UsageError(
            f"Variant {measured[0]!r} needs images to measure activations on.",
            "Name a folder of images like those that the model will see with --calibration.",
        )
    return tuple(_one_of(item, Variant) for item in dict.fromkeys(given))


def _few(calibration: Path, measured: str) -> list[str]:
    """Return a note where too few images are there to calibrate on."""
    count = len(pictures.pictures(calibration))
    if count >= _ENOUGH_IMAGES:
        return []
    return [
        f"{measured} {'are' if ' and ' in measured else 'is'} calibrated on {count} "
        f"image{'' if count == 1 else 's'} only: about a hundred, "
        "like those that the model will see, make better scores"
    ]


def _name(given: str | None, folder: Path | None, files: Path) -> str:
    if folder is not None:
        name = Path(os.path.abspath(folder)).name  # noqa: PTH100 (links keep their names)
        if given not in (None, name):
            raise UsageError(
                f"A recipe's folder must have its model's name, but {name!r} is not {given!r}.",
                "Leave out --name, or name another folder.",
            )
        given = name
    if given is None:
        absolute = Path(os.path.abspath(files))  # noqa: PTH100
        parts = [part.name for part in (absolute, *absolute.parents) if part.name]
        telling = [slug for part in parts if (slug := slugify(part)) and slug not in _NAMELESS]
        return telling[0] if telling else "model"
    if given != slugify(given):
        raise UsageError(
            f"{given!r} is not a valid model name: use lower-case letters, digits, '_', '-' and "
            "'.', a letter or digit first.",
            f"{slugify(given)!r} is a valid name." if slugify(given) else "Use another name.",
        )
    return given


def slugify(text: str) -> str:
    """Turn ``text`` into a model's name: lower-case ASCII letters, digits, ``_``, ``-``, ``.``.

    >>> slugify("Möwen & Boote (2. Lauf)")
    'mowen_boote_2._lauf'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^a-z0-9_.-]+", "_", plain.lower()).strip("_.-")[:_MAX_NAME]


def _one_of(word: str, known: Any) -> Any:
    """Check that ``word`` is one of a recipe's ``known`` words.

    Raises:
        UsageError: it is not.
    """
    words = get_args(known)
    if word not in words:
        near = difflib.get_close_matches(word, words, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"{word!r} is not a choice.", f"{hint}Known: {', '.join(words)}.")
    return word


def _pins(found: _Found) -> dict[str, tuple[int, str]]:
    files = {name: readable(path) for name, path in found.files.items()}
    if found.config is not None:
        files[CONFIG] = readable(found.config)
    return {name: (path.stat().st_size, sha256_file(path)) for name, path in sorted(files.items())}
