"""Check a normalisation that the user stated for a SavedModel (part of gate ``normalization``).

An exported graph does not record its normalisation. The user states it, and a model that gets
wrongly scaled pixels mostly still detects something: source and artefact agree in the same mistake.
The statistics of the first batch norm reveal it (:mod:`stages.saved.saved_model_statistics`).
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.files.normalizations import Normalization, named, three
from stages.gates.result import Gate

_CLEARLY = 2.0
"""Another one fits better if the stated one is this many times as far away."""

_FITS = 1.0
"""Distance from which on a normalisation does not fit the training's statistics. Measured: 0.0 on
the images of a training, 0.3 on wholly different ones, 0.9 and more under a wrong one."""

_HOPELESS = 100.0
"""Even where none fits, one that is this many times as far away as another is wrong."""


def confirmed(tried: Sequence[Mapping[str, Any]], said: Normalization) -> bool:
    """Whether the stated one fits the statistics, and no other fits clearly better.

    Args:
        tried: ``mean``, ``std`` and ``distance`` of each normalisation, ``said`` among them.
        said: the one that the artefact was made with.
    """
    distances = _distances(tried)
    return distances[said] <= _FITS and not _better(distances, said)


def examine(gate: Gate, tried: Sequence[Mapping[str, Any]], said: Normalization) -> str:
    """Add the result to the gate.

    Args:
        gate: ``normalization``.
        tried: ``mean``, ``std`` and ``distance`` of each normalisation, ``said`` among them.
        said: the one that the artefact was made with.

    Returns:
        A text about the normalisation's origin, for the summary.
    """
    distances = _distances(tried)
    gate.figures["batch_norm"] = [dict(item) for item in tried]
    near = _better(distances, said)
    if not near:
        if confirmed(tried, said):
            return f"as given; the first batch norm confirms it (distance {distances[said]:.2g})"
        return "as given; nothing in the graph confirms it"
    shown = " or ".join(f"{named(norm)}, distance {distances[norm]:.2g}" for norm in near)
    gate.problem(
        "normalization",
        f"{shown}, by the statistics that the model's first batch norm has from its training",
        f"{named(said)}, distance {distances[said]:.2g}",
        "The mean and standard deviation that were given are another model's (or the images are"
        " nothing like what it was trained on).",
    )
    return "as given"


def _distances(tried: Sequence[Mapping[str, Any]]) -> dict[Normalization, float]:
    return {
        three(tuple(item["mean"]), tuple(item["std"])): float(item["distance"]) for item in tried
    }


def _better(distances: Mapping[Normalization, float], said: Normalization) -> list[Normalization]:
    """List those that fit clearly better than the stated one, the nearest first."""
    ranked = sorted(distances, key=lambda norm: distances[norm])
    best = ranked[0]
    if best.difference(said) <= 1.0:  # a difference of one pixel value does not matter
        return []
    times = distances[said] / max(distances[best], 1e-9)
    if times < (_CLEARLY if distances[best] <= _FITS else _HOPELESS):
        return []
    near = [best]
    for norm in ranked[1:]:
        close = distances[norm] <= _CLEARLY * distances[best]
        if close and all(norm.difference(other) > 1.0 for other in near):
            near.append(norm)
    return near
