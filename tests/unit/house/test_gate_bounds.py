"""The bounds of the gates, against the worst figures that sound artefacts were seen with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import pytest
from places import ROOT

from stages.gates import parity, runtimes, structure
from stages.steps import annotate, check, task_library

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import tomli as toml

SEEN = toml.loads((ROOT / "tests" / "fixtures" / "worst_seen.toml").read_text("utf-8"))

#: A bound allows at least so many times the worst that was seen.
LEAST_MARGIN = 1.25

#: Bounds of what is 1 where nothing differs: what they allow is counted from there.
FROM_ONE = {"iou", "min_iou", "mean_iou", "agreement"}
#: Other bounds of which a figure must be more.
AT_LEAST = {"least_share", "weights_type", "spread"}

NAMES = {
    "score_difference": "score difference",
    "score": "score difference",
    "iou": "IoU",
    "min_iou": "IoU",
    "mean_iou": "mean IoU",
    "unmatched": "unmatched",
    "agreement": "agreement",
    "noise": "better fit of another",
    "pixel_error": "pixel values off",
    "least_share": "part of the weights, at least",
    "most_copies": "times the weights in float32",
    "weights_type": "part in the variant's type, at least",
    "spread": "spread of the scores, at least",
}


def bounds() -> dict[tuple[str, str], dict[str, float]]:
    """By gate and variant: the bounds by name, from the code."""
    found = {("parity", name): asdict(limits) for name, limits in parity.LIMITS.items()}
    del found["parity", "prebuilt"]  # of somebody else's files: there is no worst one
    variants = {
        "float": "float32, float16",
        "hybrid": "dynamic",
        "integer": "int8",
        "integer-16": "int16x8",
    }
    for (gate, arithmetic), limits in runtimes.LIMITS.items():
        found[gate, variants[arithmetic]] = asdict(limits)
    found["runtime-task-library", "all"] = asdict(task_library.LIMITS)
    for variant in ("float32", "float16", "dynamic", "int8", "int16x8"):
        noise = check._NOISE.get(variant, check._QUANTISED_NOISE)
        found["normalization", variant] = {"noise": noise}
    found["normalization", "int8"]["pixel_error"] = annotate.PIXEL_LIMIT
    found["structure", "all"] = {
        "least_share": structure._LEAST_SHARE,
        "most_copies": structure._MOST_COPIES,
        "weights_type": 0.5,  # half of all bytes: structure._weights
    }
    found["trained", "all"] = {"spread": check._FLAT}
    return found


class Row(NamedTuple):
    """One bound, and the worst figure that was seen."""

    gate: str
    variant: str
    name: str
    bound: float
    worst: float
    on: str

    @property
    def margin(self) -> float:
        """How many times the worst that was seen is allowed."""
        allowed, seen = self.bound, self.worst
        if self.name in FROM_ONE:
            allowed, seen = 1 - allowed, 1 - seen
        if self.name in AT_LEAST:
            allowed, seen = seen, allowed
        return allowed / seen if seen else float("inf")

    def written(self) -> str:
        """As a line of the table in docs/checks.md."""
        times = "–" if not self.worst else f"{self.margin:.1f} ×" if self.margin < 10 else "> 10 ×"
        on = SEEN["on"][self.on] if self.worst else "all"
        cells = [f"`{self.gate}`", self.variant, NAMES[self.name]]
        cells += [f"{self.bound:g}", f"{self.worst:g}", times, on]
        return f"| {' | '.join(cells)} |"


def rows() -> Iterator[Row]:
    for (gate, variant), by_name in bounds().items():
        seen: dict[str, Any] = SEEN[gate][variant]
        assert seen.keys() == by_name.keys(), (gate, variant)
        for name, bound in by_name.items():
            yield Row(gate, variant, name, bound, *seen[name])


def test_nothing_was_seen_of_what_is_no_bound() -> None:
    seen = {(gate, variant) for gate, found in SEEN.items() if gate != "on" for variant in found}
    assert seen == bounds().keys()


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: "-".join(row[:3]))
def test_a_sound_file_keeps_its_distance(row: Row) -> None:
    assert row.margin >= LEAST_MARGIN, row


def test_the_table_in_the_documents() -> None:
    text = (ROOT / "docs" / "checks.md").read_text("utf-8")
    written = "\n".join(row.written() for row in rows())
    assert written in text, f"docs/checks.md should say:\n{written}"
