"""The record of a build, ``conversion.json``: what artefacts were made of, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kiln.core.stage_result import StageResult
from kiln.core.version import __version__
from kiln.images.lock import Locked, locked_image
from kiln.project.folders import Project
from kiln.recipes.plan import Plan
from kiln.recipes.recipe import Recipe
from kiln.sources.model import Acquired


@dataclass(frozen=True)
class Artefact:
    """One finished ``.tflite``; ``size`` in bytes."""

    variant: str
    file: str
    sha256: str
    size: int


def conversion_record(
    recipe: Recipe,
    recipe_sha256: str,
    acquired: Acquired,
    plan: Plan,
    results: Mapping[str, StageResult],
    artefacts: Sequence[Artefact],
    project: Project,
) -> dict[str, Any]:
    """Record what a model's artefacts were made of and how, as plain data.

    ``results`` are those of all steps: a missing one would be missing from the signed record.
    Durations and memory are those of the run that made each result, so that building again
    without changes gives the same record. ``recipe_sha256`` is that of the recipe as published.
    """
    locked = locked_image(project.docker, recipe.image)
    others = [locked_image(project.docker, name) for name in plan.others.values()]
    return {
        "schema": 1,
        "kiln": __version__,
        "model": recipe.name,
        "title": recipe.title,
        "licence": recipe.licence,
        "profile": recipe.profile,
        "default_variant": recipe.default_variant,
        "feeding": stated_feeding(results),
        "untrained": untrained_reasons(results),
        "differences": differences_of(results),
        "label_notes": label_notes(results),
        "recipe": {"sha256": recipe_sha256},
        "source": acquired.record,
        "image": _stated(locked),
        "other_images": [_stated(item) for item in others],
        **_compiled_record(plan, results),
        "stage_code": plan.code.digest,
        "artefacts": {
            item.variant: {"file": item.file, "sha256": item.sha256, "size": item.size}
            for item in artefacts
        },
        "stages": {
            step.id: {
                "stage": step.stage,
                "image": plan.image_of(step),
                "key": step.key,
                "params": dict(step.params),
                "facts": results[step.id].facts,
                "files": {name: blob.sha256 for name, blob in results[step.id].files.items()},
                "seconds": results[step.id].seconds,
                "peak_rss": results[step.id].peak_rss,
            }
            for step in plan.steps
        },
    }


def _stated(image: Locked) -> dict[str, str]:
    return {"name": image.name, "identity": image.identity, "layer": image.layer}


def _compiled_record(plan: Plan, results: Mapping[str, StageResult]) -> dict[str, Any]:
    """Record what was compiled for which NPU; empty without such files."""
    if not plan.compiled:
        return {}
    return {
        "compiled": {
            name: {
                "from": plan.origin_of(name),
                "integer_form": name in plan.unpublished,
                **{key: fact for key, fact in results[step_id].facts.items() if key != "gates"},
            }
            for name, step_id in plan.compiled.items()
        },
    }


def stated_feeding(results: Mapping[str, StageResult]) -> Any:
    """Return how pictures become the model's input (docs/feeding.md); None if that is unknown."""
    made = results.get("export") or results.get("adopt")
    return made.facts.get("feeding") if made is not None else None


def untrained_reasons(results: Mapping[str, StageResult]) -> list[str]:
    """Return the reasons why the model cannot have been trained; empty if it was."""
    return sorted({why for item in results.values() for why in item.facts.get("untrained", [])})


def differences_of(results: Mapping[str, StageResult]) -> list[dict[str, str]]:
    """Return what was built otherwise than the configuration says.

    Each has the keys of :mod:`stages.odapi.config_differences`, which finds them.
    """
    return [item for result in results.values() for item in result.facts.get("differences", [])]


def label_notes(results: Mapping[str, StageResult]) -> list[str]:
    """Return how the label map was understood, and what it does not share with the model."""
    found = (text for item in results.values() for text in item.facts.get("label_notes", []))
    return list(dict.fromkeys(found))
