"""Check that each class has its name (gate ``labels``). Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from stages.detect import matching
from stages.files.labelmap import GAP
from stages.gates.result import Gate

NAME = "labels"

_SHOWN = 3  # differing lines that a message names


def examine(
    found: Optional[Sequence[str]],
    expected: Sequence[str],
    source: Mapping[str, Sequence[Mapping[str, Any]]],
    detections: Mapping[str, Sequence[Mapping[str, Any]]],
    known: Sequence[Mapping[str, Any]],
    score_threshold: float,
) -> Gate:
    """Compute the gate's result.

    Args:
        found: lines of the artefact's label file, by class index; None: it has none.
        expected: the lines that the label map gives (:func:`stages.files.labelmap.lines`).
        source: by image, the source model's detections (``class_id`` is the label map's).
        detections: by image, the artefact's detections (``label`` from its own label file).
        known: objects that must be detected: ``image``, ``label``, ``least_score`` (0..1).
        score_threshold: detections below are ignored.
    """
    gate = Gate(NAME)
    if found is None:
        gate.problem(
            "labels-missing",
            f"a label file of {len(expected)} lines",
            "none",
            "The metadata names no label file, so devices show class numbers.",
        )
        return gate
    if list(found) != list(expected):
        _explain(gate, list(found), list(expected))
    checked = 0
    for name, items in source.items():
        for one, other in _pairs(items, detections.get(name, ()), score_threshold):
            checked += 1
            right = _line(expected, one["class_id"])
            if other["label"] != right and not gate.problems:
                gate.problem(
                    "labels-differ",
                    f"{right!r} in {name} (class id {one['class_id']})",
                    repr(other["label"]),
                    "The label file's lines do not follow the label map's ids.",
                )
    met = [item for item in known if _is_met(gate, item, source, detections, expected)]
    gate.figures.update(lines=len(found), names=sum(line != GAP for line in found))
    gate.figures.update(detections=checked, known=len(met))
    shown = f", {len(met)} known object{'' if len(met) == 1 else 's'} found" if known else ""
    gate.summary = f"{gate.figures['names']} names on {len(found)} lines{shown}"
    return gate


def _pairs(
    source: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    threshold: float,
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    wanted = [item for item in source if item["score"] >= threshold]
    return [
        (wanted[pair.left], detections[pair.right]) for pair in matching.match(wanted, detections)
    ]


def _is_met(
    gate: Gate,
    item: Mapping[str, Any],
    source: Mapping[str, Sequence[Mapping[str, Any]]],
    detections: Mapping[str, Sequence[Mapping[str, Any]]],
    lines: Sequence[str],
) -> bool:
    """Whether a known object is detected under its name."""
    name, label, least = item["image"], item["label"], item["least_score"]
    seen = [one for one in detections.get(name, ()) if one["score"] >= least]
    if any(one["label"] == label for one in seen):
        return True
    best = max(seen, key=lambda one: one["score"], default=None)
    answer = f"{best['label']!r}, score {best['score']:.2f}" if best else "nothing"
    own = [
        one
        for one in source.get(name, ())
        if one["score"] >= least and _line(lines, one["class_id"]) == label
    ]
    gate.problem(
        "known-object",
        f"{label!r} in {name}, score {least:g} or more",
        answer,
        "The source model finds it, the artefact does not: see the other gates."
        if own
        else "The source model does not find it either: the label map belongs to another model, "
        "or the recipe expects too much.",
    )
    return False


def _line(lines: Sequence[str], class_id: int) -> str:
    return lines[class_id - 1] if 0 < class_id <= len(lines) else GAP


def _explain(gate: Gate, found: list[str], expected: list[str]) -> None:
    """Find out which usual mistake turned the expected lines into these."""
    seen = _difference(found, expected)
    wanted = f"{len(expected)} lines: class id - 1 -> name"
    named = [line for line in expected if line != GAP]
    if _is_label_map(found):
        gate.problem(
            "labels-pbtxt",
            wanted,
            f"the text of a label map, {len(found)} lines: class 0 is called {found[0]!r}",
            "The .pbtxt file itself was packed. Readers take every line for a name; it has to be "
            "written out, one name a line.",
        )
    elif found == named and found != expected[: len(found)]:
        gate.problem(
            "labels-gaps",
            wanted,
            seen,
            "Ids that the label map leaves out have no line, so all names after them move up. "
            f"Each needs a line of its own ({GAP}).",
        )
    elif _shifted(found, expected):
        gate.problem(
            "labels-shifted",
            wanted,
            seen,
            "All names are off by one line: a background line was put in front or taken away. "
            "Class ids of label maps count from 1, lines from 0.",
        )
    elif sorted(found) == sorted(expected):
        moved = sum(one != other for one, other in zip(found, expected))
        gate.problem(
            "labels-shuffled",
            wanted,
            f"{moved} of {len(expected)} names on other lines; {seen}",
            "The names are the label map's, in another order (sorted, or in the order of another "
            "file).",
        )
    elif len(found) != len(expected):
        gate.problem(
            "labels-count",
            wanted,
            f"{len(found)} lines; {seen}",
            "The label file belongs to a model with another number of classes.",
        )
    else:
        gate.problem(
            "labels-differ",
            wanted,
            seen,
            "The label file belongs to another model, or to another version of the label map.",
        )


def _is_label_map(found: list[str]) -> bool:
    return any(line.strip().startswith(("item {", "item:", "item{")) for line in found[:50])


def _shifted(found: list[str], expected: list[str]) -> bool:
    """Whether most lines are right after a shift by one."""
    for by in (-1, 1):
        pairs = [
            (found[row], expected[row + by])
            for row in range(len(found))
            if 0 <= row + by < len(expected)
        ]
        same = sum(one == other for one, other in pairs)
        right = sum(one == other for one, other in zip(found, expected))
        if pairs and same > 0.8 * len(pairs) and same > right:
            return True
    return False


def _difference(found: list[str], expected: list[str]) -> str:
    rows = [
        f"line {row}: {found[row] if row < len(found) else '(none)'!r}, not "
        f"{expected[row] if row < len(expected) else '(none)'!r}"
        for row in range(max(len(found), len(expected)))
        if row >= len(found) or row >= len(expected) or found[row] != expected[row]
    ]
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return "; ".join(rows[:_SHOWN]) + more
