"""Represent the results of checks: gates, each passed or with its problems.

The form is that of ``checks.json``; see ``docs/checks.md``. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


_DIGITS = range(3, 18)
"""Significant digits of a number in a problem: the least, and more than a double has."""


def beside(value: float, bound: float) -> str:
    """Format ``value``, which misses ``bound``, with enough digits to show that it does.

    >>> beside(0.8963, 0.9), beside(0.89996, 0.9)
    ('0.896', '0.89996')
    """
    shown = float(f"{bound:g}")  # as messages show bounds
    texts = (f"{value:.{digits}g}" for digits in _DIGITS)
    return next((text for text in texts if float(text) != shown), f"{value:.3g}")


@dataclass(frozen=True)
class Problem:
    """One problem.

    Args:
        code: a stable name, such as ``labels-shifted``.
        expected: the expected state.
        seen: the actual state.
        cause: the usual cause.
    """

    code: str
    expected: str
    seen: str
    cause: str

    def as_json(self) -> dict[str, str]:
        """Return plain data."""
        return {
            "code": self.code,
            "expected": self.expected,
            "seen": self.seen,
            "cause": self.cause,
        }


@dataclass
class Gate:
    """One check of an artefact.

    Args:
        name: of the gate, such as ``parity``.
        summary: the result in one line.
        problems: empty where it passed.
        figures: the measurements; plain data.
        skipped: why it did not run, in place of a summary.
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
        """Return plain data."""
        return {
            "gate": self.name,
            "status": self.status,
            "summary": self.skipped or self.summary,
            "problems": [problem.as_json() for problem in self.problems],
            "figures": self.figures,
        }
