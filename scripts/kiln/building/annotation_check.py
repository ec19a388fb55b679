"""Check a finished ``.tflite`` against a checkpoint, for ``kiln annotate --checkpoint``.

The steps are those of a build, with the finished file in place of the converted one: the checkpoint
is exported for the facts that metadata needs, and run itself for the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kiln.building.from_training import Given, settle
from kiln.building.recipe_writer import recipe_text
from kiln.checks import verdict
from kiln.core.errors import UnsupportedModelError
from kiln.core.files import write_atomic
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.project.closures import StageCode
from kiln.project.folders import Project
from kiln.recipes.contents import Contents
from kiln.recipes.plan import Files, Plan, make_plan
from kiln.recipes.recipe import CALIBRATED, RECIPE_FILE, Recipe, Variant, load
from kiln.recipes.steps import StepList
from kiln.sources.fetcher import Options
from kiln.sources.model import acquire, with_images_to_check
from kiln.tflite import facts
from kiln.tflite.reading import TfliteFile

#: Variant whose limits apply, by the file's precision (:class:`kiln.tflite.facts.Precision`).
_VARIANTS: Mapping[str, Variant] = {
    "float32": "float32",
    "float16 weights": "float16",
    "dynamic range": "dynamic",
    "full integer": "int8",
    "integer with float islands": "int8",
}
_SIDES, _DETECTIONS = range(32, 4097), range(1, 1001)  # that an export takes


@dataclass(frozen=True)
class Source:
    """What a file is checked against; see :class:`kiln.building.from_training.Given`."""

    checkpoint: Path
    pipeline_config: Path | None = None
    spec: str | None = None
    images: Path | None = None
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ready:
    """The recipe that a build of the same model would have, with its inputs in the store.

    Attributes:
        variant: whose limits apply.
        record: where the inputs came from, plain data.
        notes: decisions on the way.
    """

    recipe: Recipe
    variant: Variant
    contents: Contents
    record: Mapping[str, Any]
    notes: tuple[str, ...]

    def plan(self, model: str, params: Mapping[str, Any], identity: str, code: StageCode) -> Plan:
        """Return the steps of a build without the conversion.

        Args:
            model: SHA-256 of the finished file.
            params: of the stage that writes metadata, in place of the recipe's.
            identity: of the sealed image.
            code: the stage code.
        """
        built = make_plan(self.recipe, self.contents, [self.variant], image=identity, code=code)
        steps = StepList(identity, code)
        for step in built.steps:
            if step.stage == "convert":
                continue
            own: dict[str, Any] = dict(step.params)
            inputs = dict(step.inputs)
            if step.stage == "annotate":
                own.update(params)
                own["role_names"] = False  # a finished file keeps its signature
                inputs["model"] = Files({"": model})
            elif step.stage == "check":
                own["plain"] = True  # another converter may have made it
            steps.add(step.id, step.stage, own, inputs, step.params_from)
        return replace(built, steps=tuple(steps.steps.values()))

    def report(
        self, plan: Plan, results: Mapping[str, StageResult], store: Store
    ) -> Mapping[str, Any]:
        """Return the gates' report.

        Raises:
            CheckFailedError: one failed that may not.
        """
        found = verdict.gather(self.recipe, plan, results, store)
        assert found is not None  # there are always images
        verdict.judge(found, self.recipe)
        return found


def prepare(
    project: Project, store: Store, file: TfliteFile, source: Source, label_map: Path
) -> Ready:
    """Examine the source, and take its files into the store.

    Raises:
        KilnError: see :func:`kiln.building.from_training.settle`.
        UnsupportedModelError: the file cannot be a conversion of it.
    """
    variant = _variant(file)
    images = source.images or project.sample_images
    arguments, notes = settle(
        Given(
            source.checkpoint,
            label_map,
            pipeline_config=source.pipeline_config,
            spec=source.spec,
            images=source.images,
            calibration=images if variant in CALIBRATED else None,  # none is calibrated on them
            variants=(variant,),
            image_size=_size(file),
            max_detections=_capacity(file),
            allow=source.allow,
        ),
        calibrates=False,
    )
    with_operator = facts.postprocessing(file) is not None
    if with_operator == (arguments.architecture == "centernet"):
        raise UnsupportedModelError(
            f"{file.name} {'ends' if with_operator else 'does not end'} in TFLite's detection "
            f"operator, and the checkpoint is of a {arguments.architecture}.",
            "Name the checkpoint that the file was made from.",
        )
    with store.scratch() as scratch:
        path = scratch / "models" / arguments.name / RECIPE_FILE
        path.parent.mkdir(parents=True)
        write_atomic(path, recipe_text(arguments).encode("utf-8"))
        recipe = load(path, from_options=True)
    told: list[str] = []
    acquired = acquire(recipe, store, Options(on_note=told.append))
    acquired = with_images_to_check(acquired, project.sample_images, store)
    return Ready(recipe, variant, acquired.contents, acquired.record, (*notes, *told))


def _variant(file: TfliteFile) -> Variant:
    precision = facts.precision(file)
    if precision.kind not in _VARIANTS:
        raise UnsupportedModelError(
            f"{file.name} cannot be checked: it computes in {precision.words}.",
            "Without --checkpoint it is annotated, and nothing is proved of it.",
        )
    return "int16x8" if precision.activations == "int16" else _VARIANTS[precision.kind]


def _size(file: TfliteFile) -> tuple[int, int]:
    graph = file.graphs[0]
    _, height, width, _ = graph.tensors[graph.inputs[0]].shape
    if height not in _SIDES or width not in _SIDES:
        raise UnsupportedModelError(
            f"{file.name} takes images of {height}x{width} pixels, which no detector does.",
            "Name another file.",
        )
    return height, width


def _capacity(file: TfliteFile) -> int | None:
    """Return how many detections the file outputs; None where it does not tell."""
    graph = file.graphs[0]
    shapes = [graph.tensors[index].shape for index in graph.outputs]
    said = (facts.postprocessing(file) or {}).get("max_detections")
    said = said or next((shape[1] for shape in shapes if len(shape) == 3), None)
    return said if isinstance(said, int) and said in _DETECTIONS else None
