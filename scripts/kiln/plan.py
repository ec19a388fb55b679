"""Recipe to plan: which stages, in which order, with which keys. Pure: no I/O at all.

A stage's key is the digest of everything that can influence its result: the sealed image, the
stage code, its name and parameters, and its inputs, where an input made by another stage counts
by that stage's *key*. So the whole plan is known before anything runs, and two machines that
agree on the keys agree on what they are about to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kiln.digest import key_of
from kiln.errors import UsageError
from kiln.recipe import SEED_VARIANTS, HubSource, Recipe, StageSource, Variant

#: Bumped when the meaning of requests or results changes: old results no longer match.
PROTOCOL = 1

#: Seeds the fresh heads of the seed profile: the original recipe's differed on every run.
SEED = 2021


@dataclass(frozen=True)
class Files:
    """An input whose content is at hand: relative path -> SHA-256. One file has the path ``""``."""

    files: Mapping[str, str]


@dataclass(frozen=True)
class Output:
    """An input that another step makes: a path below that step's files."""

    step: str
    path: str


@dataclass(frozen=True)
class Fact:
    """A parameter whose value another step reports."""

    step: str
    name: str


@dataclass(frozen=True)
class Step:
    """One stage with everything it depends on."""

    id: str
    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Files | Output]
    params_from: Mapping[str, Fact]
    key: str

    def upstream(self) -> set[str]:
        """Ids of the steps whose files or facts this one needs."""
        files = {item.step for item in self.inputs.values() if isinstance(item, Output)}
        return files | {fact.step for fact in self.params_from.values()}


@dataclass(frozen=True)
class Plan:
    """All steps of one model, upstream first, and which step makes which variant's artefact.

    ``reports`` are the steps that are run for what they find out.
    """

    model: str
    image: str
    steps: tuple[Step, ...]
    artefacts: Mapping[str, str]
    reports: tuple[str, ...] = ()

    def step(self, step_id: str) -> Step:
        """The step with that id."""
        return next(step for step in self.steps if step.id == step_id)

    def closure(self, wanted: Iterable[str], have: Iterable[str]) -> list[Step]:
        """The steps that must run to have ``wanted``, given that ``have`` need not; in order."""
        at_hand = set(have)
        needed: set[str] = set()
        stack = [step_id for step_id in wanted if step_id not in at_hand]
        while stack:
            step_id = stack.pop()
            if step_id not in needed:
                needed.add(step_id)
                stack.extend(self.step(step_id).upstream() - at_hand)
        return [step for step in self.steps if step.id in needed]


@dataclass(frozen=True)
class Sources:
    """The contents a recipe starts from, by digest.

    Args:
        checkpoint: the model folder of an archive (path -> SHA-256); empty for a stage source.
        inputs: named files of a stage source.
        prebuilt: SHA-256 of the archive's ready ``.tflite``.
        label_map: SHA-256 of the label map when it is a file at hand.
        label_map_path: its path inside the source otherwise.
        images: calibration images, name -> SHA-256.
    """

    checkpoint: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    prebuilt: str | None = None
    label_map: str | None = None
    label_map_path: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)


class _Steps:
    def __init__(self, image: str, code: str) -> None:
        self._image, self._code = image, code
        self.steps: dict[str, Step] = {}

    def add(
        self,
        step_id: str,
        stage: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, Files | Output],
        params_from: Mapping[str, Fact] | None = None,
    ) -> None:
        facts = params_from or {}
        described: dict[str, Any] = {}
        for name, item in inputs.items():
            if isinstance(item, Files):
                described[name] = {"files": dict(item.files)}
            else:
                described[name] = {"stage": self.steps[item.step].key, "path": item.path}
        key = key_of(
            {
                "protocol": PROTOCOL,
                "image": self._image,
                "code": self._code,
                "stage": stage,
                "params": dict(params),
                "params_from": {
                    name: {"stage": self.steps[fact.step].key, "fact": fact.name}
                    for name, fact in facts.items()
                },
                "inputs": described,
            }
        )
        self.steps[step_id] = Step(step_id, stage, dict(params), dict(inputs), dict(facts), key)


def lone_step(
    step_id: str,
    stage: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Files],
    *,
    image: str,
    code: str,
) -> Step:
    """A step that needs no other one; ``image`` and ``code`` as in :func:`make_plan`."""
    steps = _Steps(image, code)
    steps.add(step_id, stage, params, inputs)
    return steps.steps[step_id]


def make_plan(
    recipe: Recipe, sources: Sources, variants: Sequence[Variant], *, image: str, code: str
) -> Plan:
    """Plan ``variants`` of a recipe.

    Args:
        image: identity of the sealed image, ``sha256:<hex>``.
        code: digest of the stage code.

    Raises:
        UsageError: the recipe has no such variant.
    """
    for variant in variants:
        if variant not in recipe.variants:
            raise UsageError(
                f"Model {recipe.name!r} has no variant {variant!r}.",
                f"Its recipe lists: {', '.join(recipe.variants)}.",
            )
    steps = _Steps(image, code)
    label_map: Files | Output
    if sources.label_map is not None:
        label_map = Files({"": sources.label_map})
    else:
        label_map = Output("checkpoint", f"model/{sources.label_map_path}")
    if isinstance(recipe.source, HubSource):
        artefacts = _create(steps, recipe, sources, label_map)
        return Plan(recipe.name, recipe.image, tuple(steps.steps.values()), artefacts)

    checkpoint: Files | Output = Files(sources.checkpoint)
    if isinstance(recipe.source, StageSource):
        inputs = {name: Files({"": digest}) for name, digest in sources.inputs.items()}
        steps.add("checkpoint", recipe.source.stage, recipe.source.params, inputs)
        checkpoint = Output("checkpoint", "model")
    if set(variants) != {"prebuilt"}:
        _export(steps, recipe, checkpoint)
    artefacts = {}
    for variant in variants:
        if variant == "prebuilt":
            source = _adopt(steps, sources, checkpoint)
        else:
            source = _convert(steps, variant, sources)
        artefacts[variant] = f"annotate-{variant}"
        _annotate(steps, artefacts[variant], recipe, source, label_map)
    reports = _compare(steps, sources, artefacts)
    return Plan(recipe.name, recipe.image, tuple(steps.steps.values()), artefacts, reports)


def _export(steps: _Steps, recipe: Recipe, checkpoint: Files | Output) -> None:
    params: dict[str, Any] = {
        "max_detections": recipe.export.max_detections,
        "image_size": list(recipe.export.image_size) if recipe.export.image_size else None,
        # The original recipe exported plainly, so its bytes depend on the CPU; so must these.
        "exact_batch_norm": recipe.profile != "seed",
    }
    stage = "export"
    if recipe.efficientdet is not None:
        stage, params["spec"] = "modelmaker_export", recipe.efficientdet.spec
    steps.add("export", stage, params, {"checkpoint": checkpoint})


def _convert(steps: _Steps, variant: Variant, sources: Sources) -> Output:
    inputs: dict[str, Files | Output] = {"saved_model": Output("export", "saved_model")}
    facts = {}
    if variant == "int8":
        inputs["images"] = Files(sources.images)
        facts["normalization"] = Fact("export", "normalization")
    steps.add(f"convert-{variant}", "convert", {"variant": variant}, inputs, facts)
    return Output(f"convert-{variant}", "model.tflite")


def _adopt(steps: _Steps, sources: Sources, checkpoint: Files | Output) -> Output:
    inputs: dict[str, Files | Output] = {
        "model": Files({"": sources.prebuilt or ""}),
        "checkpoint": checkpoint,
        "images": Files(sources.images),
    }
    steps.add("adopt", "adopt", {}, inputs)
    return Output("adopt", "model.tflite")


def _annotate(
    steps: _Steps, step_id: str, recipe: Recipe, model: Output, label_map: Files | Output
) -> None:
    seed = recipe.profile == "seed"
    origin = "adopt" if model.step == "adopt" else "export"
    facts = ["architecture", "num_classes"]
    facts += [] if seed else ["normalization"]
    facts += ["roles"] if origin == "adopt" else []
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
            **({"label_file_name": _label_file_name(recipe)} if seed else {}),
        },
        {"model": model, "label_map": label_map},
        {name: Fact(origin, name) for name in facts},
    )


def _compare(steps: _Steps, sources: Sources, artefacts: Mapping[str, str]) -> tuple[str, ...]:
    """The publisher's own file against our conversion of the same checkpoint."""
    if not {"prebuilt", "float32"} <= set(artefacts):
        return ()
    steps.add(
        "compare-prebuilt",
        "compare",
        {},
        {
            "prebuilt": Output(artefacts["prebuilt"], "model.tflite"),
            "converted": Output(artefacts["float32"], "model.tflite"),
            "images": Files(sources.images),
        },
    )
    return ("compare-prebuilt",)


def _create(
    steps: _Steps, recipe: Recipe, sources: Sources, label_map: Files | Output
) -> dict[str, str]:
    """Model Maker's own way: an untrained detector on a hub module, its own metadata."""
    assert recipe.efficientdet is not None  # the recipe's own check
    steps.add(
        "create",
        "modelmaker_seed",
        {"spec": recipe.efficientdet.spec, "seed": SEED},
        {
            "hub_module": Files(sources.checkpoint),
            "images": Files(sources.images),
            "label_map": label_map,
        },
    )
    return {SEED_VARIANTS["efficientdet"]: "create"}


def _label_file_name(recipe: Recipe) -> str:
    return PurePosixPath(recipe.labels.file or recipe.labels.in_source or "").name
