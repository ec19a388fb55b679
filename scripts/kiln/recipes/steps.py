"""Steps of a plan: stages with everything they depend on, and their keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kiln.core.digest import key_of
from kiln.project.closures import Closure, StageCode
from kiln.recipes.targets import integer_name

#: Raised when the meaning of requests or results changes, so that old results no longer match.
PROTOCOL = 1

#: Of steps and plans whose keys were not made of stage code.
_NO_CODE, _NO_STAGE_CODE = Closure(""), StageCode("")


@dataclass(frozen=True)
class Files:
    """An input from the store: relative path -> SHA-256. A single file has the path ``""``."""

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
    """One stage with everything it depends on.

    ``image`` is the identity of the sealed image that it runs in, "" for that of its plan.
    ``code`` is the stage code that it runs; without a digest where that is not known.
    """

    id: str
    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Files | Output]
    params_from: Mapping[str, Fact]
    key: str
    image: str = ""
    code: Closure = _NO_CODE

    def upstream(self) -> set[str]:
        """Ids of the steps whose files or facts this one needs."""
        files = {item.step for item in self.inputs.values() if isinstance(item, Output)}
        return files | {fact.step for fact in self.params_from.values()}


@dataclass(frozen=True)
class Plan:
    """All steps of one model, upstream first, and the step that makes each variant's artefact.

    ``reports`` are the steps that are run for their findings. ``image`` is the image's name;
    ``identity`` and ``code`` are the sealed image and the stage code that it was made with; each
    step's key holds the digest of its own closure in that code.
    ``others`` are the images of the steps that run in another one: identity -> name. ``compiled``
    are the steps that make artefacts out of others, by name (:mod:`kiln.recipes.targets`);
    ``unpublished`` are names of the forms that some of them are made of, where those are made for
    nothing else. The steps of such a form end with its name.
    """

    model: str
    image: str
    steps: tuple[Step, ...]
    artefacts: Mapping[str, str]
    reports: tuple[str, ...] = ()
    identity: str = ""
    code: StageCode = _NO_STAGE_CODE
    others: Mapping[str, str] = field(default_factory=dict)
    compiled: Mapping[str, str] = field(default_factory=dict)
    unpublished: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, str]:
        """The steps that make ``.tflite`` files, compiled ones too, by the variant's name."""
        return {**self.artefacts, **self.compiled}

    def image_of(self, step: Step) -> str:
        """Return the name of the image that a step runs in."""
        return self.others[step.image] if step.image else self.image

    def step(self, step_id: str) -> Step:
        """Return the step with that id."""
        return next(step for step in self.steps if step.id == step_id)

    def ids(self) -> list[str]:
        """Return the ids of all steps, in order."""
        return [step.id for step in self.steps]

    def published(self) -> list[str]:
        """Return the steps whose files are published, with the publisher's own file."""
        originals = ["adopt"] if "prebuilt" in self.artefacts else []
        return [*originals, *self.files.values(), *self.reports]

    def origin_of(self, name: str) -> str:
        """Return the variant that a compiled artefact is a form of."""
        form = self.unpublished.get(name)
        above = self.step(self.compiled[name]).upstream()
        return next(
            variant
            for variant, made in self.artefacts.items()
            if made in above or form == integer_name(variant)
        )

    def steps_of(self, name: str) -> set[str]:
        """Return the ids of the steps that only compiled artefacts need, of one of these."""
        form = self.unpublished.get(name)
        made = {self.compiled[name]}
        if form is not None:
            made.update(step.id for step in self.steps if step.id.endswith(f"-{form}"))
        return made

    def without(self, compiled: Collection[str]) -> Plan:
        """Return the plan without these compiled artefacts, and the steps that only they need."""
        kept = {name: step for name, step in self.compiled.items() if name not in compiled}
        left_out = {step for name in compiled for step in self.steps_of(name)}
        left_out -= {step for name in kept for step in self.steps_of(name)}
        return replace(
            self,
            steps=tuple(step for step in self.steps if step.id not in left_out),
            reports=tuple(step_id for step_id in self.reports if step_id not in left_out),
            compiled=kept,
            unpublished={name: form for name, form in self.unpublished.items() if name in kept},
        )

    def closure(self, wanted: Iterable[str], have: Iterable[str]) -> list[Step]:
        """Return the steps that ``wanted`` need, without those in ``have``; in order."""
        at_hand = set(have)
        needed: set[str] = set()
        stack = [step_id for step_id in wanted if step_id not in at_hand]
        while stack:
            step_id = stack.pop()
            if step_id not in needed:
                needed.add(step_id)
                stack.extend(self.step(step_id).upstream() - at_hand)
        return [step for step in self.steps if step.id in needed]


class StepList:
    """Collects the steps of a plan; a step's key includes the keys of those it depends on.

    Args:
        image: identity of the sealed image.
        code: the stage code.
    """

    def __init__(self, image: str, code: StageCode) -> None:
        self._image, self._code = image, code
        self.steps: dict[str, Step] = {}

    def add(
        self,
        step_id: str,
        stage: str,
        params: Mapping[str, Any],
        inputs: Mapping[str, Files | Output],
        params_from: Mapping[str, Fact] | None = None,
        *,
        image: str = "",
    ) -> None:
        """Add a :class:`Step`; the steps that it depends on must have been added.

        Args:
            image: identity of the sealed image that it runs in, if that is another one.
        """
        facts = params_from or {}
        described: dict[str, Any] = {}
        for name, item in inputs.items():
            if isinstance(item, Files):
                described[name] = {"files": dict(item.files)}
            else:
                described[name] = {"stage": self.steps[item.step].key, "path": item.path}
        said = {
            name: {"stage": self.steps[fact.step].key, "fact": fact.name}
            for name, fact in facts.items()
        }
        code = self._code.of(stage)
        key = stage_key(stage, image or self._image, code.digest, params, said, described)
        self.steps[step_id] = Step(
            step_id, stage, dict(params), dict(inputs), dict(facts), key, image, code
        )


def stage_key(
    stage: str,
    image: str,
    code: str,
    params: Mapping[str, Any],
    params_from: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> str:
    """Return the digest of everything that can influence a stage's result, as plain data.

    Args:
        code: digest of the stage code that it runs.
    """
    return key_of(
        {
            "protocol": PROTOCOL,
            "image": image,
            "code": code,
            "stage": stage,
            "params": dict(params),
            "params_from": dict(params_from),
            "inputs": dict(inputs),
        }
    )


def lone_step(
    step_id: str,
    stage: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Files],
    *,
    image: str,
    code: StageCode,
) -> Step:
    """Make a step without upstream steps; ``image`` and ``code`` as in :class:`StepList`."""
    steps = StepList(image, code)
    steps.add(step_id, stage, params, inputs)
    return steps.steps[step_id]
