"""Predict what a build would do, without an engine, a download or any change (``kiln plan``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kiln.core.store import Store
from kiln.images.lock import locked_image
from kiln.project.closures import read_stage_code
from kiln.project.folders import Project
from kiln.recipes.check_steps import DEVICE
from kiln.recipes.plan import Plan, images_of, make_plan, refuse_missing
from kiln.recipes.recipe import Recipe, Variant
from kiln.running.cached import look_up
from kiln.running.cutoff import CutOff
from kiln.sources.model import acquire, source_at_hand, with_images_to_check

#: ``stored``: the result is in the store. ``runs``: a build would run it. ``follows``: it would if
#: what it reads comes out otherwise; only code changed before it. ``spare``: its files are lost,
#: but not needed.
State = Literal["stored", "runs", "follows", "spare"]


@dataclass(frozen=True)
class PlannedStep:
    """One stage of a build; ``key`` is 64 hex digits."""

    id: str
    stage: str
    key: str
    state: State


@dataclass(frozen=True)
class NamedImage:
    """A sealed image; ``identity`` is ``sha256:<hex>``."""

    name: str
    identity: str


@dataclass(frozen=True)
class Forecast:
    """What a build of one model would do.

    Args:
        image: the recipe's.
        identity: of that sealed image, ``sha256:<hex>``.
        other_images: in which some of the steps run.
        source: the kind of source; ``at_hand``: a build needs no download for it.
        steps: empty until the source is downloaded: keys are made of its digests.
    """

    model: str
    image: str
    identity: str
    other_images: tuple[NamedImage, ...]
    variants: tuple[Variant, ...]
    source: str
    at_hand: bool
    steps: tuple[PlannedStep, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def forecast(
    project: Project, store: Store, recipe: Recipe, variants: Sequence[Variant] = ()
) -> Forecast:
    """Predict what a build of ``recipe`` would do.

    Args:
        variants: which ones; all of the recipe when empty.

    Raises:
        ImageMismatchError: the image's sources changed, but the lock did not.
        UsageError: the recipe has no such variant.
        KilnError: local files of the source do not match the recipe.
    """
    wanted = tuple(variants) or recipe.variants
    refuse_missing(recipe, wanted)
    image, *others = (
        NamedImage(name, locked_image(project.docker, name).identity) for name in images_of(recipe)
    )
    at_hand = source_at_hand(recipe, store)
    steps = _steps(project, store, recipe, wanted, image.identity) if at_hand else ()
    return Forecast(
        recipe.name,
        image.name,
        image.identity,
        tuple(others),
        wanted,
        recipe.source.kind,
        at_hand,
        steps,
    )


def plan_of(
    project: Project, store: Store, recipe: Recipe, variants: Sequence[Variant], identity: str
) -> Plan:
    """Return the plan of a build in the image ``identity``; the sources are fetched if need be."""
    acquired = with_images_to_check(acquire(recipe, store), project.sample_images, store)
    code = read_stage_code(project.stages, store)
    device = locked_image(project.docker, DEVICE).identity
    return make_plan(recipe, acquired.contents, variants, image=identity, code=code, device=device)


def _steps(
    project: Project, store: Store, recipe: Recipe, variants: Sequence[Variant], identity: str
) -> tuple[PlannedStep, ...]:
    plan = plan_of(project, store, recipe, variants, identity)
    known = look_up(plan, store, plan.published(), plan.ids(), read=False)
    runs = {step.id for step in known.todo}
    follow = CutOff(store, plan, known.results).waiting(known.todo)

    def state(step_id: str) -> State:
        if step_id in follow:
            return "follows"
        return "runs" if step_id in runs else "stored" if step_id in known.whole else "spare"

    return tuple(PlannedStep(s.id, s.stage, s.key, state(s.id)) for s in plan.steps)
