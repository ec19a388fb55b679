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
from kiln.recipe import Recipe, StageSource, Variant

#: Bumped when the meaning of requests or results changes: old results no longer match.
PROTOCOL = 1


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
    """All steps of one model, upstream first, and which step makes which variant's artefact."""

    model: str
    image: str
    steps: tuple[Step, ...]
    artefacts: Mapping[str, str]

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
        label_map: SHA-256 of the label map when it is a file at hand.
        label_map_path: its path inside the source otherwise.
        images: calibration images, name -> SHA-256.
    """

    checkpoint: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
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
    checkpoint: Files | Output = Files(sources.checkpoint)
    if isinstance(recipe.source, StageSource):
        inputs = {name: Files({"": digest}) for name, digest in sources.inputs.items()}
        steps.add("checkpoint", recipe.source.stage, recipe.source.params, inputs)
        checkpoint = Output("checkpoint", "model")
    label_map: Files | Output
    if sources.label_map is not None:
        label_map = Files({"": sources.label_map})
    else:
        label_map = Output("checkpoint", f"model/{sources.label_map_path}")

    seed = recipe.profile == "seed"
    steps.add(
        "export",
        "export",
        {
            "max_detections": recipe.export.max_detections,
            "image_size": list(recipe.export.image_size) if recipe.export.image_size else None,
            # The original recipe exported plainly, so its bytes depend on the CPU; so must these.
            "exact_batch_norm": not seed,
        },
        {"checkpoint": checkpoint},
    )
    artefacts: dict[str, str] = {}
    for variant in variants:
        convert: dict[str, Files | Output] = {"saved_model": Output("export", "saved_model")}
        facts = {}
        if variant == "int8":
            convert["images"] = Files(sources.images)
            facts["normalization"] = Fact("export", "normalization")
        steps.add(f"convert-{variant}", "convert", {"variant": variant}, convert, facts)
        derived = {
            "architecture": Fact("export", "architecture"),
            "num_classes": Fact("export", "num_classes"),
        }
        if not seed:
            derived["normalization"] = Fact("export", "normalization")
        artefacts[variant] = f"annotate-{variant}"
        steps.add(
            artefacts[variant],
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
            {"model": Output(f"convert-{variant}", "model.tflite"), "label_map": label_map},
            derived,
        )
    return Plan(recipe.name, recipe.image, tuple(steps.steps.values()), artefacts)


def _label_file_name(recipe: Recipe) -> str:
    return PurePosixPath(recipe.labels.file or recipe.labels.in_source or "").name
