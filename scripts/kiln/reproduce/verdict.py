"""Represent the outcome for one artefact, and why it may differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kiln.reproduce.recorded import Recorded

if TYPE_CHECKING:
    from kiln.tflite.diff import Difference

Outcome = Literal["identical", "differs", "cannot be rebuilt"]
IDENTICAL: Outcome = "identical"
DIFFERS: Outcome = "differs"
IMPOSSIBLE: Outcome = "cannot be rebuilt"


@dataclass(frozen=True)
class Cause:
    """Why a file may differ or cannot be made.

    ``kind`` is ``image``, ``code``, ``input``, ``cpu``, ``statement`` (it is wrong), ``stage``
    (one failed) or ``unknown``.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Missing:
    """Something that is needed but not available: ``uri`` says where it could come from."""

    name: str
    sha256: str
    uri: str = ""

    def __str__(self) -> str:
        return f"{self.name}, SHA-256 {self.sha256 or 'unknown'}"


@dataclass(frozen=True)
class Verdict:
    """The outcome for one artefact.

    Args:
        rebuilt: SHA-256 of the rebuilt file, "" if there is none.
        difference: how the files differ, if the released one is there.
        first: the first step whose files differ from what ``conversion.json`` records, "" where
            that is unknown.
        kept: where the rebuilt file is.
    """

    recorded: Recorded
    outcome: Outcome
    rebuilt: str = ""
    causes: tuple[Cause, ...] = ()
    missing: tuple[Missing, ...] = ()
    difference: Difference | None = None
    first: str = ""
    kept: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        item = self.recorded
        return {
            "model": item.model,
            "variant": item.variant,
            "file": item.file,
            "verdict": self.outcome,
            "sha256": item.sha256,
            "rebuilt": self.rebuilt or None,
            "causes": [{"kind": cause.kind, "text": cause.text} for cause in self.causes],
            "missing": [
                {"name": thing.name, "sha256": thing.sha256, "uri": thing.uri}
                for thing in self.missing
            ],
            "first_step": self.first or None,
            "difference": None if self.difference is None else self.difference.as_json(),
            "kept": None if self.kept is None else str(self.kept),
        }

    def lines(self) -> list[str]:
        """Return details beyond the outcome, for people."""
        found = []
        if self.difference is not None:
            found += self.difference.text().splitlines()
        if self.first:
            found.append(f"The first step with a different result: {self.first}.")
        word = "Suspected cause" if self.outcome == DIFFERS else "Cause"
        found += [f"{word} ({cause.kind}): {cause.text}" for cause in self.causes]
        for uri in dict.fromkeys(thing.uri for thing in self.missing):
            found += [f"Missing: {thing}" for thing in self.missing if thing.uri == uri]
            where = uri or "unknown; name a folder that holds it with --inputs"
            found.append(f"  available from: {where}")
        if self.kept is not None:
            found.append(f"The rebuilt file is kept in {self.kept}.")
        return found


def suspects(
    recorded: Recorded, machine: str, cpu: str, *, contradicted: bool = False
) -> tuple[Cause, ...]:
    """List possible causes of a difference; machine and processor are those of this run.

    ``contradicted``: every step made what the release's own record says.

    Image, stage code and inputs were the recorded ones, each by its digest, so the machine or an
    unknown cause is left.
    """
    there = ", ".join(filter(None, (recorded.machine, recorded.cpu))) or "an unknown processor"
    here = ", ".join(filter(None, (machine, cpu)))
    if contradicted:
        text = (
            "every step made exactly what the release's own conversion.json records. The "
            "statement contradicts it: it is about a file that this plan did not make."
        )
        return (Cause("statement", text),)
    if recorded.plain_export:
        text = (
            "the seed profile exports plainly, so the converter folds batch norms with the "
            "processor's own approximations: other processors make other bytes. "
        )
        text += f"Made on {there}; here: {here}."
        return (Cause("cpu", text),)
    if there != here:
        return (Cause("cpu", f"it was made on {there}; here: {here}."),)
    return (
        Cause(
            "unknown",
            f"image, stage code and inputs are those recorded, and so is the processor ({here}). "
            "Either the statement is about a file that was made differently, or a stage is not "
            "deterministic: reproduce it again, and compare with --keep.",
        ),
    )
