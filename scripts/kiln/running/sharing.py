"""What a runner needs of results that other machines share (:mod:`kiln.cache` has it)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from kiln.core.stage_result import StageResult
from kiln.recipes.steps import Plan


class SharedResults(Protocol):
    """Results elsewhere. Whatever happens to them, a plan can be run without them."""

    def fetch(self, plan: Plan, files: Collection[str], facts: Collection[str] = ()) -> bool:
        """Copy into the store what it lacks of a plan; return whether anything came.

        Args:
            files: ids of the steps whose files are wanted.
            facts: ids of those that only need a record.
        """

    def offer(self, result: StageResult) -> None:
        """Take note of a new result in the store; return at once."""
