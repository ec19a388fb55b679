"""Merge recorded plans that agree, so that shared steps run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kiln.recipes.steps import Plan, Step
from kiln.reproduce.recorded import Recorded


@dataclass(frozen=True)
class Group:
    """Artefacts that can be made together; ``plan.artefacts`` maps file to step."""

    artefacts: tuple[Recorded, ...]
    plan: Plan


def merge(artefacts: Sequence[Recorded]) -> list[Group]:
    """Merge the artefacts of one model into as few groups as possible, in their order.

    Two belong together if images, stage code, source archive and limits are the same, and steps
    with the same id have the same key, so they are the same step.
    """
    groups: list[list[Recorded]] = []
    for item in artefacts:
        for group in groups:
            if all(_agree(item, other) for other in group):
                group.append(item)
                break
        else:
            groups.append([item])
    return [Group(tuple(group), _merged([item.plan for item in group])) for group in groups]


def _agree(one: Recorded, other: Recorded) -> bool:
    def settings(item: Recorded) -> tuple[object, ...]:
        images = sorted(item.images.items())
        return (images, item.plan.code.digest, item.image, item.source, item.limits)

    keys = {step.id: step.key for step in one.plan.steps}
    return settings(one) == settings(other) and all(
        keys.get(step.id, step.key) == step.key for step in other.plan.steps
    )


def _merged(plans: Sequence[Plan]) -> Plan:
    steps = {step.id: step for plan in plans for step in plan.steps}
    depths: dict[str, int] = {}
    for step in steps.values():  # upstream first, in each plan
        depths[step.id] = 1 + max((depths[other] for other in step.upstream()), default=0)
    # Steps of one depth follow each other: those of one environment can share a process.
    ordered: list[Step] = sorted(steps.values(), key=lambda step: depths[step.id])
    artefacts = {file: step for plan in plans for file, step in plan.artefacts.items()}
    first = plans[0]
    return replace(first, steps=tuple(ordered), artefacts=artefacts)
