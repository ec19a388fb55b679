"""What runs a plan: this machine, or others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from kiln.core.stage_result import StageResult
from kiln.recipes.steps import Plan
from kiln.running.limits import Limits

#: Called with an event name and its fields.
OnEvent = Callable[..., None]


class Executor(Protocol):
    """Turns plans into results that the store holds.

    :class:`kiln.running.executor.Runner` does it in containers of this machine.
    """

    def run(
        self,
        plan: Plan,
        limits: Limits,
        image: Callable[[], str],
        *,
        files: Collection[str] | None = None,
        facts: Collection[str] = (),
        others: Callable[[str], str] | None = None,
    ) -> dict[str, StageResult]:
        """Run the parts of ``plan`` that are not cached: see ``Runner.run``.

        ``image`` and ``others`` provide images on this machine; whoever runs the plan elsewhere
        does not call them.
        """
        ...


class Elsewhere(Protocol):
    """Other machines, which run plans while this one prepares, checks and publishes.

    Attributes:
        most: how many plans may wait for their results at a time.
    """

    most: int

    def executor(self, on_event: OnEvent) -> Executor:
        """Return an executor for one model; ``on_event`` receives its events."""
        ...

    def stop(self) -> None:
        """Let go of everything that was asked for; running calls then end."""
        ...
