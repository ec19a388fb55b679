"""Plan the steps that check artefacts against their source model; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kiln.recipes import export_options
from kiln.recipes.recipe import Recipe
from kiln.recipes.steps import Fact, Files, Output, StepList

#: Images that each artefact is checked on. More cost time and show little more: a faulty
#: conversion is wrong in every image.
IMAGES = 6

#: TensorFlow 2.8, in the image with Model Maker, takes 10 to 40 times as long for EfficientDet's
#: quantised operators as for its float ones.
SLOW_IMAGES = 2
SLOW = {("modelmaker", "dynamic"), ("modelmaker", "int8"), ("modelmaker", "int16x8")}

#: Score from which a detection counts: twice the noise in the samples' images, and below every
#: object in them.
SCORE_THRESHOLD = 0.3

CHECK_FILE = "check.json"

#: The folder beside it: by image, the pixels that a model was fed, for runtimes outside.
CHECK_PIXELS = "pixels"

#: The image whose stages run artefacts in today's runtimes, and those stages: the first words of
#: their steps' ids.
DEVICE = "device"
RUNTIMES = ("litert", "mediapipe")

#: Facts that the stage that runs a SavedModel needs from the stage that inspected it.
REFERENCE_FACTS = ("normalization", "normalization_from", "weights", "resizer")


def check_id(variant: str) -> str:
    """Return the id of the step that checks ``variant``."""
    return f"check-{variant}"


def library_id(variant: str) -> str:
    """Return the id of the step that runs ``variant`` in the Task Library."""
    return f"task-library-{variant}"


def runtime_ids(variant: str) -> tuple[str, ...]:
    """Return the ids of the steps that run ``variant`` in today's runtimes."""
    return tuple(f"{stage}-{variant}" for stage in RUNTIMES)


def add_checks(
    steps: StepList,
    recipe: Recipe,
    artefacts: Mapping[str, str],
    checkpoint: Files | Output | None,
    label_map: Files | Output,
    images: Mapping[str, str],
    calibration: Mapping[str, str],
    device: str = "",
) -> tuple[str, ...]:
    """Add the steps that check ``artefacts``; return the ids of those whose reports are needed.

    Args:
        artefacts: variant -> id of the step that makes it.
        checkpoint: the source model; None if there is none to compare with.
        images: name -> SHA-256; if empty, nothing is checked.
        calibration: the images that ``adopt`` ran the checkpoint on, name -> SHA-256.
        device: identity of the image :data:`DEVICE`; "" for no checks in it.
    """
    if not images:
        return ()
    chosen = choose(images, [item.image for item in recipe.check.expect], IMAGES)
    steps.add("previews", "previews", {}, {"images": Files(chosen)})
    if checkpoint is not None and set(artefacts) != {"prebuilt"}:
        _reference(steps, recipe, checkpoint, chosen)
    for variant in artefacts:
        seen = chosen
        if variant == "prebuilt":
            shared = {name: sha for name, sha in calibration.items() if images.get(name) == sha}
            wanted = [item.image for item in recipe.check.expect]
            seen = choose(shared or calibration, wanted, IMAGES)
        _check(steps, recipe, variant, variant, artefacts, label_map, seen)
    return ("previews", *_libraries(steps, artefacts, device))


def add_form_checks(
    steps: StepList,
    recipe: Recipe,
    form: str,
    variant: str,
    artefact: str,
    label_map: Files | Output,
    images: Mapping[str, str],
    device: str,
) -> tuple[str, ...]:
    """Add the steps that check a form of a variant that is only compiled, as if it was published.

    Args:
        form: its name, for the steps' ids.
        artefact: id of the step that makes it.
        images: as :func:`add_checks`, which must have been called before.
        device: likewise.
    """
    if not images:
        return ()
    chosen = choose(images, [item.image for item in recipe.check.expect], IMAGES)
    _check(steps, recipe, form, variant, {form: artefact}, label_map, chosen)
    return _libraries(steps, {form: artefact}, device)


def only_exported(recipe: Recipe) -> bool:
    """Whether the source is a graph already exported for TFLite."""
    return recipe.source.brings == "saved_model" and recipe.efficientdet is None


def choose(images: Mapping[str, str], wanted: Iterable[str], limit: int) -> dict[str, str]:
    """Choose up to ``limit`` images: those ``wanted``, then others spread over the names."""
    names = [name for name in dict.fromkeys(wanted) if name in images]
    rest = sorted(set(images) - set(names))
    room = max(0, limit - len(names))
    if len(rest) > room:
        rest = [rest[number * len(rest) // room] for number in range(room)]
    return {name: images[name] for name in sorted([*names, *rest])}


def _reference(
    steps: StepList, recipe: Recipe, checkpoint: Files | Output, images: Mapping[str, str]
) -> None:
    least = recipe.check.score_threshold
    seen = {item.image for item in recipe.check.expect}
    if any(image == recipe.image for image, _ in SLOW):
        seen |= _few(recipe, images).keys()
    shown: dict[str, Any] = {
        # How a model is fed shows only in pictures of another shape than its input.
        "crops": True,
        "enough": {
            "score_threshold": SCORE_THRESHOLD if least is None else least,
            "images": sorted(seen),
        },
    }
    if only_exported(recipe):
        facts = {name: Fact("export", name) for name in REFERENCE_FACTS}
        steps.add(
            "reference",
            "saved_model_reference",
            shown,
            {"saved_model": Output("export", "saved_model"), "images": Files(images)},
            facts,
        )
        return
    stage, params = reference_stage(recipe)
    params |= shown
    params |= export_options.given(recipe.export.model_dump())
    steps.add("reference", stage, params, {"checkpoint": checkpoint, "images": Files(images)})


def reference_stage(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """Return the stage that runs a recipe's checkpoint itself, and its parameters."""
    if recipe.efficientdet is not None:
        return "modelmaker_reference", {**overrides(recipe), "spec": recipe.efficientdet.spec}
    return "reference", overrides(recipe)


def overrides(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's changes to its model's configuration, as stage parameters."""
    size = recipe.export.image_size
    return {
        "max_detections": recipe.export.max_detections,
        "image_size": list(size) if size else None,
    }


def input_type(recipe: Recipe, variant: str) -> dict[str, str]:
    """Return the parameter for an int8 input, where a variant has one."""
    kind = recipe.export.inference_io
    return {"inference_io": kind} if variant == "int8" and kind != "uint8" else {}


def without_postprocessing(recipe: Recipe) -> dict[str, str]:
    """Return the parameter for raw outputs, where a recipe wants them."""
    kind = recipe.export.postprocess
    return {} if kind == export_options.TFLITE else {"postprocess": kind}


def _few(recipe: Recipe, images: Mapping[str, str]) -> dict[str, str]:
    return choose(images, [item.image for item in recipe.check.expect], SLOW_IMAGES)


def plain(recipe: Recipe) -> dict[str, bool]:
    """Return the parameter for files as the converter makes them, which the seed profile keeps."""
    return {"plain": True} if recipe.profile == "seed" else {}


def _libraries(steps: StepList, artefacts: Mapping[str, str], device: str) -> tuple[str, ...]:
    """Add the steps that run what was checked in other runtimes; return all checks' ids."""
    # After all checks: these run in the other environment, and share a process.
    for variant in artefacts:
        _library(steps, variant, artefacts, library_id(variant), "task_library")
    ids = [name(variant) for variant in artefacts for name in (check_id, library_id)]
    if device:
        for variant in artefacts:
            for step_id, stage in zip(runtime_ids(variant), RUNTIMES, strict=True):
                _library(steps, variant, artefacts, step_id, stage, device)
                ids.append(step_id)
    return tuple(ids)


def _check(
    steps: StepList,
    recipe: Recipe,
    name: str,
    variant: str,
    artefacts: Mapping[str, str],
    label_map: Files | Output,
    images: Mapping[str, str],
) -> None:
    # Nothing here may depend on which other variants are built: the key of a variant's check must
    # be the same whether it is built alone or with others.
    slow = (recipe.image, variant) in SLOW
    expected = [item for item in recipe.check.expect if item.image in images]
    if slow:
        images = _few(recipe, images)
    limits = recipe.check.limits.get(variant)  # type: ignore[call-overload]
    least = recipe.check.score_threshold
    params: dict[str, Any] = {
        "variant": variant,
        "score_threshold": SCORE_THRESHOLD if least is None else least,
        "limits": limits.model_dump(exclude_none=True) if limits else {},
        "expect": [item.model_dump() for item in expected],
        # Takes five runs instead of one. Where that is too slow, the float32 file of the same
        # graph has shown it.
        "prove_normalization": not slow,
        "reference_kernels": slow,
        **input_type(recipe, variant),
        **without_postprocessing(recipe),
        **plain(recipe),
    }
    inputs: dict[str, Files | Output] = {
        "model": Output(artefacts[name], "model.tflite"),
        "label_map": label_map,
        "images": Files(images),
    }
    origin = "export"
    if variant == "prebuilt":
        origin = "adopt"
        # That step has run the checkpoint, at the file's own size.
        inputs["source"] = Output("adopt", "detections.json")
    elif artefacts[name] == "create":
        origin = "create"
    else:
        inputs["source"] = Output("reference", "detections.json")
    facts = _facts(origin)
    if origin == "export" and only_exported(recipe):
        facts["normalizations"] = Fact("reference", "normalizations")
    steps.add(check_id(name), "check", params, inputs, facts)


def _library(
    steps: StepList,
    variant: str,
    artefacts: Mapping[str, str],
    step_id: str,
    stage: str,
    image: str = "",
) -> None:
    """Add a step that runs an artefact in a library for apps, and compares with its check."""
    steps.add(
        step_id,
        stage,
        {},
        {
            "model": Output(artefacts[variant], "model.tflite"),
            "found": Output(check_id(variant), CHECK_FILE),
            "pixels": Output(check_id(variant), CHECK_PIXELS),
        },
        {
            "score_threshold": Fact(check_id(variant), "compared_from"),
            "nms_score_threshold": Fact(check_id(variant), "nms_score_threshold"),
        },
        image=image,
    )


def _facts(origin: str) -> dict[str, Fact]:
    names: Sequence[str] = ("architecture", "num_classes", "input", "normalization", "untrained")
    facts = {name: Fact(origin, name) for name in names}
    if origin != "create":  # that step's file is compared with nothing
        facts["nms_score_threshold"] = Fact(origin, "nms_score_threshold")
    if origin == "adopt":
        facts["roles"] = Fact(origin, "roles")
    if origin == "export":
        facts["weights"] = Fact("reference", "weights")
    return facts
