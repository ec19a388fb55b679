"""Measure what each layer of a model loses in int8 (``kiln explain-int8``).

The stage ``explain_int8`` quantises the model as a build does, and compares each layer with its
float form on the calibration images. Its result is kept in the store like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kiln.building.build import Builder
from kiln.core.errors import StageFailedError, UnsupportedModelError, UsageError
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.measure.workbench import Workbench
from kiln.project import bounds
from kiln.project.folders import Project
from kiln.recipes.plan import Plan, make_plan
from kiln.recipes.recipe import Recipe, discover
from kiln.recipes.selection import select
from kiln.recipes.steps import StepList
from kiln.running.executor_protocol import OnEvent
from kiln.running.limits import limits_of
from kiln.sources.fetcher import Options
from kiln.sources.model import acquire

STAGE, STEP = "explain_int8", "explain-int8"

#: The stage's result file.
LAYERS_FILE = "layers.json"

#: The error of rounding alone, in steps: that of an even distribution, 1 / sqrt(12).
ROUNDING = 12**-0.5


@dataclass(frozen=True)
class Layer:
    """What one layer loses.

    Attributes:
        name: as ``float_layers`` of a recipe takes it.
        operator: its kind.
        rmse: root of the mean squared error, in the unit of the layer's output.
        max_error: the largest error, likewise.
        scale: one step of its output.
        rmse_by_scale: ``rmse`` in steps.
    """

    name: str
    operator: str
    rmse: float
    max_error: float
    scale: float
    rmse_by_scale: float


@dataclass(frozen=True)
class Explanation:
    """What a model's layers lose in int8.

    Attributes:
        model: its name.
        pictures: how many it was measured on.
        layers: those that are quantised, in the order of execution.
        in_float: names of those that stay in float.
    """

    model: str
    pictures: int
    layers: tuple[Layer, ...]
    in_float: tuple[str, ...]

    def worst(self) -> list[Layer]:
        """Return the layers, the one with the largest error in steps first."""
        return sorted(self.layers, key=lambda layer: -layer.rmse_by_scale)

    def svg(self) -> str:
        """Return a picture of all layers, in the order of execution."""
        from kiln.page.layer_chart import Bar, draw

        bars = [Bar(layer.name, layer.operator, layer.rmse_by_scale) for layer in self.layers]
        return draw(self.model, bars, ROUNDING)

    def as_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "model": self.model,
            "pictures": self.pictures,
            "layers": [asdict(layer) for layer in self.layers],
            "in_float": list(self.in_float),
        }


def refuse_without_int8(recipe: Recipe) -> None:
    """Refuse a model that has no int8 conversion to explain.

    Raises:
        UsageError: the recipe has no variant int8.
        UnsupportedModelError: its int8 file is not converted here.
    """
    if "int8" not in recipe.variants:
        needs = "" if recipe.calibration else ", and [calibration] with a folder of images"
        raise UsageError(
            f"Model {recipe.name!r} has no variant 'int8'.",
            f'Its recipe lists: {", ".join(recipe.variants)}. Add "int8" there{needs}.',
        )
    if recipe.source.brings == "feature_vector":
        raise UnsupportedModelError(
            f"The int8 file of {recipe.name!r} cannot be explained: Model Maker makes it in one "
            "go from a hub module, whose heads are not trained.",
            "Explain a model with a checkpoint.",
        )


def explain_model(
    model: str,
    store: Store,
    on_event: OnEvent,
    *,
    models_dir: Path | None = None,
    archive: Path | None = None,
) -> Explanation:
    """Measure what each layer of a recipe's model loses in int8.

    Args:
        model: the recipe's name.
        models_dir: where recipes are; ``None``: the project's own.
        archive: as of :func:`explain`.

    Raises:
        KilnError: there is no such recipe; or as :func:`explain`.
    """
    project = Project.find()
    folder = (models_dir or project.models).absolute()
    (recipe,) = select(folder, discover(folder), (model,)).unbroken()
    builder = Builder(project, store, project.root / "dist", on_event)
    return explain(builder, recipe, archive)


def explain(builder: Builder, recipe: Recipe, archive: Path | None = None) -> Explanation:
    """Measure what each layer of a model loses in int8.

    Args:
        builder: has project, store and engine, and receives events.
        archive: see :class:`kiln.sources.fetcher.Options`.

    Raises:
        KilnError: any failure of a build; see :func:`refuse_without_int8`.
    """
    refuse_without_int8(recipe)
    bench = Workbench(builder)
    options = Options(
        archive=archive,
        on_progress=lambda name, done, total: builder.on_event(
            "download", name=name, done=done, total=total
        ),
        on_note=bench.note,
    )
    contents = acquire(recipe, builder.store, options).contents
    identity = bench.identity(recipe.image)
    built = make_plan(recipe, contents, ["int8"], image=identity, code=bench.code, checks=False)
    plan = explaining(built)
    runner = bench.runner(builder.on_event)
    with bench.lock(f"model-{recipe.name}", recipe.name):
        results = runner.run(plan, limits_of(recipe), lambda: bench.tag(recipe.image))
    blob = results[STEP].files[LAYERS_FILE]
    return read(recipe.name, builder.store.read(blob.sha256, LAYERS_FILE))


def explaining(built: Plan) -> Plan:
    """Return the steps of a build of int8, with the explanation in place of the conversion."""
    steps = StepList(built.identity, built.code)
    for step in built.steps:
        if step.stage == "convert":
            params = {name: value for name, value in step.params.items() if name != "variant"}
            steps.add(STEP, STAGE, params, step.inputs, step.params_from)
        elif step.stage != "annotate":
            steps.add(step.id, step.stage, step.params, step.inputs, step.params_from)
    return replace(built, steps=tuple(steps.steps.values()), artefacts={}, reports=(STEP,))


def read(model: str, data: bytes) -> Explanation:
    """Parse what the stage wrote.

    Raises:
        StageFailedError: it is not what the stage writes.
    """
    try:
        found = parse_json_object(data, size=bounds.RECORD.most)
        return Explanation(
            model,
            int(found["pictures"]),
            tuple(_layer(item) for item in found["layers"]),
            tuple(str(name) for name in found["float"]),
        )
    except (MalformedError, KeyError, TypeError, ValueError) as error:
        raise StageFailedError(
            f"A stage wrote an unusable {LAYERS_FILE}: {error!r}.",
            "Report it, with the model's recipe.",
        ) from error


def _layer(item: Mapping[str, Any]) -> Layer:
    numbers = {name: float(item[name]) for name in ("rmse", "max_error", "scale", "rmse_by_scale")}
    return Layer(str(item["name"]), str(item["operator"]), **numbers)
