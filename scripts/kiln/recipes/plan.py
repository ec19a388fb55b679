"""Plan a recipe: which stages run, in which order, with which keys; no I/O.

A stage's key is the digest of everything that can influence its result: the sealed image, the
stage code that it runs (:mod:`kiln.project.closures`), its name and parameters, and its inputs. An
input made by another stage counts by that stage's *key*. So the whole plan is known before anything
runs, and equal keys on two machines mean equal work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from kiln.core.errors import UsageError
from kiln.project.closures import StageCode
from kiln.recipes import export_options
from kiln.recipes.check_steps import (
    DEVICE,
    add_checks,
    add_form_checks,
    input_type,
    only_exported,
    plain,
    without_postprocessing,
)
from kiln.recipes.contents import Contents
from kiln.recipes.recipe import CALIBRATED, SEED_VARIANTS, Int8, Recipe, Variant
from kiln.recipes.steps import PROTOCOL, Fact, Files, Output, Plan, Step, StepList
from kiln.recipes.targets import integer_name

__all__ = ["PROTOCOL", "Fact", "Files", "Output", "Plan", "Step", "make_plan"]

#: Random seed for the untrained heads of the seed profile: the original recipe set none.
SEED = 2021

#: Facts of an export that integer quantisation needs.
QUANTISATION_FACTS = ("normalization", "feeding")


def make_plan(
    recipe: Recipe,
    contents: Contents,
    variants: Sequence[Variant],
    *,
    image: str,
    code: StageCode,
    device: str = "",
    checks: bool = True,
) -> Plan:
    """Plan ``variants`` of a recipe.

    Args:
        image: identity of the sealed image, ``sha256:<hex>``.
        code: the stage code.
        device: identity of the image with today's runtimes and the compiler for NPUs; "" for no
            checks in it, and no compiled files.
        checks: whether to also check artefacts against their source.

    Raises:
        UsageError: the recipe has no such variant.
    """
    refuse_missing(recipe, variants)
    steps = StepList(image, code)
    label_map: Files | Output
    if contents.label_map is not None:
        label_map = Files({"": contents.label_map})
    else:
        label_map = Output("checkpoint", f"model/{contents.label_map_path}")
    if recipe.source.brings == "feature_vector":
        artefacts = _create(steps, recipe, contents, label_map)
        reports: tuple[str, ...] = ()
        if checks:
            reports = _add_checks(steps, recipe, contents, artefacts, None, label_map, device)
        return _plan(steps, recipe, artefacts, reports, image, code, device)

    checkpoint: Files | Output = Files(contents.checkpoint)
    maker = recipe.source.made_by
    if maker is not None:
        inputs = {name: Files({"": digest}) for name, digest in contents.inputs.items()}
        steps.add("checkpoint", maker.stage, maker.params, inputs)
        checkpoint = Output("checkpoint", "model")
    if only_exported(recipe):
        _take_saved_model(steps, recipe, contents, label_map)
    elif recipe.source.brings == "saved_model":
        assert recipe.efficientdet is not None  # else it is only exported
        params = {"spec": recipe.efficientdet.spec, "image_size": _image_size(recipe)}
        saved = {"saved_model": Files(contents.saved_model)}
        steps.add("checkpoint", "saved_model_checkpoint", params, saved)
        checkpoint = Output("checkpoint", "model")
    if "export" not in steps.steps and set(variants) != {"prebuilt"}:
        _export(steps, recipe, checkpoint)
    made = {
        variant: (
            _adopt(steps, contents, checkpoint)
            if variant == "prebuilt"
            else _convert(steps, recipe, variant, contents)
        )
        for variant in variants
    }
    # Consecutive steps of the metadata environment share a process.
    for variant in variants:
        _annotate(steps, f"annotate-{variant}", recipe, made[variant], label_map)
    artefacts = {variant: f"annotate-{variant}" for variant in variants}
    reports = _compare(steps, contents, artefacts)
    if checks:
        reports += _add_checks(steps, recipe, contents, artefacts, checkpoint, label_map, device)
    plan = _plan(steps, recipe, artefacts, reports, image, code, device)
    if not device:
        return plan
    # Last of all: a file that fails its checks is not compiled.
    return _with_compiled(steps, recipe, contents, plan, label_map, device, checks=checks)


def images_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the images that a build of a recipe needs, the recipe's own first.

    Each build checks its files in today's runtimes: where a recipe names no images to check on, on
    the project's photographs.
    """
    return recipe.image, DEVICE


def _plan(
    steps: StepList,
    recipe: Recipe,
    artefacts: Mapping[str, str],
    reports: tuple[str, ...],
    image: str,
    code: StageCode,
    device: str,
) -> Plan:
    ordered = tuple(steps.steps.values())
    others = {device: DEVICE} if any(step.image for step in ordered) else {}
    return Plan(recipe.name, recipe.image, ordered, artefacts, reports, image, code, others)


def refuse_missing(recipe: Recipe, variants: Sequence[Variant]) -> None:
    """Raise a UsageError if the recipe lacks one of these variants."""
    for variant in variants:
        if variant not in recipe.variants:
            raise UsageError(
                f"Model {recipe.name!r} has no variant {variant!r}.",
                f"Its recipe lists: {', '.join(recipe.variants)}.",
            )


def _export(steps: StepList, recipe: Recipe, checkpoint: Files | Output) -> None:
    params: dict[str, Any] = {
        "max_detections": recipe.export.max_detections,
        "image_size": _image_size(recipe),
        # The original recipe did not, so its bytes depend on the CPU; the seed profile keeps that.
        "exact_batch_norm": recipe.profile != "seed",
        **export_options.given(recipe.export.model_dump()),
        **without_postprocessing(recipe),
    }
    stage = "export"
    if recipe.efficientdet is not None:
        stage, params["spec"] = "modelmaker_export", recipe.efficientdet.spec
    steps.add("export", stage, params, {"checkpoint": checkpoint})


def _take_saved_model(
    steps: StepList, recipe: Recipe, contents: Contents, label_map: Files | Output
) -> None:
    """Add the step that takes an already exported model instead of exporting one."""
    said = recipe.source.stated_normalization
    inputs: dict[str, Files | Output] = {
        "saved_model": Files(contents.saved_model),
        "label_map": label_map,
    }
    if contents.config is not None:
        inputs["config"] = Files({"pipeline.config": contents.config})
    params = {"normalization": None if said is None else {"mean": [*said.mean], "std": [*said.std]}}
    steps.add("export", "saved_model", params, inputs)


def _image_size(recipe: Recipe) -> list[int] | None:
    return list(recipe.export.image_size) if recipe.export.image_size else None


def _convert(
    steps: StepList, recipe: Recipe, variant: Variant, contents: Contents, name: str = ""
) -> Output:
    """Add the step that converts a variant; its ids end with ``name``, by default the variant."""
    inputs: dict[str, Files | Output] = {"saved_model": Output("export", "saved_model")}
    facts = {}
    if variant in CALIBRATED:
        inputs["images"] = Files(contents.images)
        facts = {name: Fact("export", name) for name in QUANTISATION_FACTS}
    elif variant == "dynamic" and not plain(recipe):
        # Weights that stay in float are those of this conversion.
        inputs["float32"] = _convert(steps, recipe, "float32", contents)
    if recipe.export.regular_nms:
        facts["suppression"] = Fact("export", "suppression")
    params = {
        "variant": variant,
        **input_type(recipe, variant),
        **without_postprocessing(recipe),
        **plain(recipe),
        **quantisation(recipe, variant),
    }
    step_id = f"convert-{name or variant}"
    steps.add(step_id, "convert", params, inputs, facts)
    return Output(step_id, "model.tflite")


def quantisation(recipe: Recipe, variant: Variant) -> dict[str, Any]:
    """Return the parameters of how a variant is quantised, where a recipe changes them."""
    params: dict[str, Any] = {}
    number = recipe.calibration.number if recipe.calibration is not None else None
    if variant in CALIBRATED and number is not None:
        params["calibration_number"] = number
    if variant in CALIBRATED and recipe.int8.float_layers:
        params["float_layers"] = list(recipe.int8.float_layers)
    return params


def _adopt(steps: StepList, contents: Contents, checkpoint: Files | Output) -> Output:
    inputs: dict[str, Files | Output] = {
        "model": Files({"": contents.prebuilt or ""}),
        "checkpoint": checkpoint,
        "images": Files(contents.images),
    }
    steps.add("adopt", "adopt", {}, inputs)
    return Output("adopt", "model.tflite")


def _annotate(
    steps: StepList, step_id: str, recipe: Recipe, model: Output, label_map: Files | Output
) -> None:
    seed, order = recipe.profile == "seed", recipe.export.output_order
    origin = "adopt" if model.step == "adopt" else "export"
    facts = ["architecture", "num_classes"]
    facts += [] if seed else ["normalization", "feeding"]
    facts += ["roles"] if origin == "adopt" else []
    inputs: dict[str, Files | Output] = {"model": model, "label_map": label_map}
    raw = without_postprocessing(recipe)
    if raw:
        inputs["decoding"] = Output("export", "decoding")
    steps.add(
        step_id,
        "annotate",
        {
            "profile": recipe.profile,
            "name": recipe.title,
            "description": recipe.description,
            "version": recipe.version,
            "author": recipe.author,
            "license": recipe.licence,
            "score_threshold": recipe.export.score_threshold,
            **({"label_file_name": _label_file_name(recipe)} if seed else {}),
            **({"output_order": order} if order != "tf2" else {}),
            # Of a publisher's own file, and of the original recipe's, the signature stays.
            **({"role_names": True} if origin == "export" and not seed else {}),
            **raw,
        },
        inputs,
        {name: Fact(origin, name) for name in facts},
    )


def _compare(steps: StepList, contents: Contents, artefacts: Mapping[str, str]) -> tuple[str, ...]:
    """Add the step that compares the publisher's own file with the conversion made here."""
    if not {"prebuilt", "float32"} <= set(artefacts):
        return ()
    steps.add(
        "compare-prebuilt",
        "compare",
        {},
        {
            "prebuilt": Output(artefacts["prebuilt"], "model.tflite"),
            "converted": Output(artefacts["float32"], "model.tflite"),
            "images": Files(contents.images),
        },
    )
    return ("compare-prebuilt",)


def _with_compiled(
    steps: StepList,
    recipe: Recipe,
    contents: Contents,
    plan: Plan,
    label_map: Files | Output,
    device: str,
    *,
    checks: bool,
) -> Plan:
    """Add the steps that compile variants to ``plan``, which has all other steps."""
    compiled: dict[str, str] = {}
    unpublished: dict[str, str] = {}
    reports = plan.reports
    for item in recipe.compile:
        if item.variant not in plan.artefacts:
            continue
        made = plan.artefacts[item.variant]
        if recipe.int8.float_layers and not item.keep_float_layers:
            form = unpublished[item.name] = integer_name(item.variant)
            made = f"annotate-{form}"
            if made not in steps.steps:
                whole = recipe.model_copy(update={"int8": Int8()})
                converted = _convert(steps, whole, item.variant, contents, form)
                _annotate(steps, made, whole, converted, label_map)
                if checks:
                    images = contents.check_images
                    reports += add_form_checks(
                        steps, whole, form, item.variant, made, label_map, images, device
                    )
        chip = item.chip()
        step_id = compiled[item.name] = f"compile-{item.variant}-{chip.name}"
        params = {**chip.as_params(), "least_mapped": item.least_mapped}
        model = {"model": Output(made, "model.tflite")}
        steps.add(step_id, "compile", params, model, image=device)
    full = _plan(steps, recipe, plan.artefacts, reports, plan.identity, plan.code, device)
    return replace(full, compiled=compiled, unpublished=unpublished)


def _add_checks(
    steps: StepList,
    recipe: Recipe,
    contents: Contents,
    artefacts: Mapping[str, str],
    checkpoint: Files | Output | None,
    label_map: Files | Output,
    device: str,
) -> tuple[str, ...]:
    images, calibration = contents.check_images, contents.images
    return add_checks(steps, recipe, artefacts, checkpoint, label_map, images, calibration, device)


def _create(
    steps: StepList, recipe: Recipe, contents: Contents, label_map: Files | Output
) -> dict[str, str]:
    """Add the step for Model Maker's untrained detector on a hub module, with its own metadata."""
    assert recipe.efficientdet is not None  # the recipe's own check
    steps.add(
        "create",
        "modelmaker_seed",
        {"spec": recipe.efficientdet.spec, "seed": SEED},
        {
            "hub_module": Files(contents.checkpoint),
            "images": Files(contents.images),
            "label_map": label_map,
        },
    )
    return {SEED_VARIANTS["efficientdet"]: "create"}


def _label_file_name(recipe: Recipe) -> str:
    return PurePosixPath(recipe.labels.file or recipe.labels.in_source or "").name
