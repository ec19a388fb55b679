"""Check how the artefact says that it is fed, and what other ways cost (gate ``feeding``).

A model that was trained on letterboxed photographs finds less in stretched ones, and the other way
round. The source model is fed by its authors' code, so the way that is described must meet it best.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.detect import matching
from stages.files import feeding
from stages.gates import own_list, parity
from stages.gates.result import Gate

NAME = "feeding"

DESCRIBED = "described"

_CLEARLY = 0.1
"""Another way is better if its agreement is higher by more: quantisation alone makes less."""

_SENSIBLE = 0.5  # the least agreement of a way that is better

WORDS = {feeding.LETTERBOX: "letterboxed", feeding.STRETCH: "stretched"}
"""What becomes of pictures, by the ``fit`` of a feeding."""


def other_ways(described: feeding.Feeding) -> dict[str, feeding.Feeding]:
    """Return the usual ways to feed a model (:func:`stages.files.feeding.usual`), by ``fit``."""
    return {fit: feeding.usual(fit, described) for fit in WORDS}


def telling(way: str, source: own_list.Lists, described: parity.Detections, least: float) -> bool:
    """Whether it says something to run the artefact in another way.

    What stretching costs is always of interest: the Task Library and MediaPipe do it. Else another
    way must be able to be clearly better than the described one.

    Args:
        way: a name of :func:`other_ways`.
        source: as for :func:`examine`.
        described: the artefact's detections, fed as described.
        least: as for :func:`examine`.
    """
    if way == feeding.STRETCH:
        return True
    return parity.agreement(*_comparable(source, described), least) + _CLEARLY < 1


def examine(
    source: own_list.Lists,
    found: Mapping[str, parity.Detections],
    described: feeding.Feeding,
    least: float,
    changed: bool = False,
) -> Gate:
    """Compute the gate's result.

    Args:
        source: what the model finds.
        found: by way of feeding (``described``, and names of :func:`other_ways`), the artefact's
            detections. Images are those of a shape that is not the input's, the same for each.
        described: what the file says.
        least: the least score that counts.
        changed: whether the model was converted with another configuration than the source's (a
            user may want another size). Then no way meets the source, and the gate only says what
            each costs; ``parity`` compares with the changed model.
    """
    gate = Gate(NAME)
    names = sorted(found[DESCRIBED])
    objects = {}
    for way, images in found.items():
        truth, seen = _comparable(source, images)
        gate.figures[way] = round(parity.agreement(truth, seen, least), 6)
        compared = [matching.compare(truth[name], seen[name], least) for name in names]
        counted = matching.together(compared)
        objects[way] = {key: counted[key] for key in ("pairs", "missed", "extra")}
    gate.figures.update(objects=objects, images=names)
    gate.summary = _summary(gate.figures, objects, described)
    if changed:
        gate.summary += "; the source is the unmodified model"
        return gate
    others = [way for way in found if way != DESCRIBED]
    best = max(others, key=lambda way: gate.figures[way], default=DESCRIBED)
    better = gate.figures[best] - gate.figures[DESCRIBED]
    if better > _CLEARLY and gate.figures[best] >= _SENSIBLE:
        gate.problem(
            NAME,
            f"pictures {WORDS[best]}: agreement {gate.figures[best]:.3f} with the source",
            f"{WORDS[described.fit]}, as the file describes it: {gate.figures[DESCRIBED]:.3f}",
            f"The file says that pictures are to be {WORDS[described.fit]}, but its model was"
            f" trained on {WORDS[best]} ones: an application that feeds it as described loses"
            " objects.",
        )
    return gate


def _comparable(
    source: own_list.Lists, found: parity.Detections
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reduce both sides to the detections that both must hold, by image."""
    truth, seen = {}, {}
    for name, items in found.items():
        ends = (source.own_ends.get(name, 0.0), 0.0)
        truth[name], seen[name] = own_list.comparable(
            source.own[name], items, source.suppression, ends
        )
    return truth, seen


def _summary(
    figures: Mapping[str, Any], objects: Mapping[str, Mapping[str, int]], how: feeding.Feeding
) -> str:
    """Say what each way costs, in one line."""
    parts = []
    for way, counted in objects.items():
        name = f"{WORDS[how.fit]} as described" if way == DESCRIBED else WORDS[way]
        if way == how.fit:
            name += " the usual way"
        total = counted["pairs"] + counted["missed"]
        lost = f": {counted['missed']} of {total} objects lost" if counted["missed"] else ""
        parts.append(f"{name} {figures[way]:.3f}{lost}")
    return "agreement with the source: " + "; ".join(parts)
