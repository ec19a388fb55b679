"""List every recipe, its source, and how its last build ended (``kiln models``)."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiln.building.build import LAST_RESULT
from kiln.core.errors import RecipeError
from kiln.core.store import Store
from kiln.recipes.recipe import discover
from kiln.recipes.selection import read_all
from kiln.sources.model import source_at_hand


@dataclass(frozen=True)
class Entry:
    """One recipe.

    Args:
        kind: ``sample``, or the recipe's profile.
        source: ``archive``, ``hub`` or ``stage``; ``at_hand``: a build needs no download.
        last: how the last build on this machine ended (``when`` in seconds since 1970, ``ok``,
            and ``variants`` or the failure's ``kind``), or ``None``.
    """

    model: str
    title: str
    architecture: str
    kind: str
    image: str
    source: str
    at_hand: bool
    variants: list[str]
    last: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def cells(self) -> list[str]:
        """Return a table's row; the time in this machine's time zone."""
        place = "embedded" if self.source == "stage" else self.source
        here = "" if self.at_hand and self.source == "stage" else ", available"
        return [
            self.model,
            self.architecture,
            self.kind,
            self.image,
            place + (here if self.at_hand else ", not downloaded"),
            " ".join(self.variants),
            _told(self.last, len(self.variants)),
        ]


def _told(last: dict[str, Any] | None, variants: int) -> str:
    if last is None:
        return "-"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(last["when"]))
    if last["ok"]:
        return f"{when} {len(last['variants'])} of {variants}"
    return f"{when} failed: {last['kind']}"


def catalogue(models: Path, store: Store) -> tuple[list[Entry], list[RecipeError]]:
    """List every recipe below ``models``, and the failures of unreadable ones."""
    found = read_all(models, discover(models))
    entries = []
    for name, recipe in found.recipes.items():
        entries.append(
            Entry(
                model=name,
                title=recipe.title,
                architecture=recipe.architecture,
                kind="sample" if recipe.sample else recipe.profile,
                image=recipe.image,
                source=recipe.source.kind,
                at_hand=source_at_hand(recipe, store),
                variants=list(recipe.variants),
                last=store.get_ref(LAST_RESULT, name),
            )
        )
    return entries, list(found.broken.values())
