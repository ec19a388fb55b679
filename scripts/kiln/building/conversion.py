"""Convert a user's own model in one step: write a temporary recipe and build it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.building.build import Builder, failure_of
from kiln.building.from_training import Given, settle
from kiln.building.recipe_writer import recipe_text
from kiln.building.record import Artefact
from kiln.core.channels import check_channels
from kiln.core.errors import RecipeError, UsageError
from kiln.core.files import write_atomic
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.recipes.recipe import RECIPE_FILE, load
from kiln.recipes.selection import Selection
from kiln.release import publish
from kiln.running.executor_protocol import OnEvent
from kiln.sources.local import reading


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        model: its name.
        folder: the model's folder in the release.
        artefacts: the ``.tflite`` files: variant, name in the folder, SHA-256 and size in bytes.
        notes: decisions on the way, such as which of several checkpoints was used.
        stages_run: how many stages ran; results that the store had are not made again.
    """

    model: str
    folder: Path
    artefacts: tuple[Artefact, ...]
    notes: tuple[str, ...]
    stages_run: int

    def path(self, variant: str) -> Path:
        """Return the path of a variant's file; ``KeyError`` if it was not made."""
        return self.folder / {item.variant: item.file for item in self.artefacts}[variant]


@dataclass(frozen=True)
class Prepared:
    """A model ready to be built.

    Attributes:
        store: where results go.
        selection: its recipe.
        notes: decisions about it.
    """

    store: Store
    selection: Selection
    notes: tuple[str, ...]


@contextlib.contextmanager
def prepared(given: Given, output: Path) -> Iterator[Prepared]:
    """Write the recipe of ``kiln init`` to a scratch folder, which lasts as long as the build.

    Args:
        output: the release's folder, absolute.

    Raises:
        UsageError: nothing can be written to ``output``, or a value cannot be.
        KilnError: see :func:`kiln.building.from_training.settle`.
    """
    with reading():
        _check_writable(output)
    publish.check_target(output)
    _check_numbers(given)
    arguments, notes = settle(given)
    text = recipe_text(arguments)
    store = Store(Store.default_root())
    with store.scratch() as scratch:
        path = scratch / "models" / arguments.name / RECIPE_FILE
        path.parent.mkdir(parents=True)
        write_atomic(path, text.encode("utf-8"))
        try:
            recipe = load(path, from_options=True)
        except RecipeError as error:  # the user wrote no recipe
            raise UsageError(
                f"A value cannot be: {error.message.removeprefix(f'{path}: ')}",
                "Correct it; the key's last part is the argument's name.",
            ) from None
        yield Prepared(store, Selection.of(recipe), notes)


def convert(given: Given, output: Path, on_event: OnEvent | None = None) -> Conversion:
    """Convert a model and publish it, signed, in a release folder.

    Raises:
        KilnError: it cannot be converted, or a check failed; then nothing is published.
    """
    target = output.absolute()
    with prepared(given, target) as ready:
        tell = on_event or _ignore_event
        (model,) = ready.selection.names
        noted = {f"{model}: {note}" for note in ready.notes}
        builder = Builder(Project.find(), ready.store, target, tell, noted=noted)
        builds = builder.build(ready.selection)
    error = failure_of(builds)
    if error is not None:
        raise error
    (build,) = builds
    return Conversion(
        build.model, target / build.model, build.artefacts, ready.notes, build.stages_run
    )


def _ignore_event(event: str, **fields: Any) -> None:
    pass


def _check_numbers(given: Given) -> None:
    """Refuse from Python what the command line's options do not let through.

    Raises:
        UsageError: a number is none, or none that a recipe and metadata can hold.
    """
    for name, values in (("mean", given.mean), ("std", given.std)):
        if values is not None:
            check_channels(name, values)
    for name in ("score_threshold", "nms_score_threshold", "nms_iou_threshold"):
        value = getattr(given, name)
        if value is not None and not math.isfinite(value):
            raise UsageError(
                f"--{name.replace('_', '-')} {value} is not a number.", "Give one from 0 to 1."
            )


def _check_writable(folder: Path) -> None:
    """Fail now, not after minutes, if the release folder cannot be written."""
    place = next((item for item in (folder, *folder.parents) if item.exists()), folder)
    if not place.is_dir():
        raise UsageError(f"{place} is not a folder.", "Name another folder for the release.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(
            f"Nothing can be written to {place}.", "Name another folder for the release."
        )
