"""What a check of an artefact found: gates, each passed or with its problems.

The form is that of ``checks.json``; see ``docs/checks.md``. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


_DIGITS = range(3, 18)
"""Significant digits of a number in a problem: the least, and more than a double has."""


def beside(value: float, bound: float) -> str:
    """``value``, which misses ``bound``, in as many digits as it takes to see that it does.

    >>> beside(0.8963, 0.9), beside(0.89996, 0.9)
    ('0.896', '0.89996')
    """
    shown = float(f"{bound:g}")  # as messages show bounds
    texts = (f"{value:.{digits}g}" for digits in _DIGITS)
    return next((text for text in texts if float(text) != shown), f"{value:.3g}")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        code: a word for it that does not change, such as ``labels-shifted``.
        expected: what should be there.
        seen: what is there.
        cause: how that usually comes about.
    """

    code: str
    expected: str
    seen: str
    cause: str

    def as_json(self) -> dict[str, str]:
        """As plain data."""
        return {
            "code": self.code,
            "expected": self.expected,
            "seen": self.seen,
            "cause": self.cause,
        }


@dataclass
class Gate:
    """One question asked of an artefact.

    Args:
        name: of the gate, such as ``parity``.
        summary: what was found, in one line.
        problems: empty where it passed.
        figures: what was measured; plain data.
        skipped: why nothing was asked, in place of a summary.
    """

    name: str
    summary: str = ""
    problems: list[Problem] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def problem(self, code: str, expected: str, seen: str, cause: str) -> None:
        """Add a :class:`Problem`."""
        self.problems.append(Problem(code, expected, seen, cause))

    @property
    def status(self) -> str:
        """``passed``, ``failed`` or ``skipped``."""
        if self.problems:
            return FAILED
        return SKIPPED if self.skipped else PASSED

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "gate": self.name,
            "status": self.status,
            "summary": self.skipped or self.summary,
            "problems": [problem.as_json() for problem in self.problems],
            "figures": self.figures,
        }
