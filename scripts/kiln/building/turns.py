"""Let one kiln at a time make a model: on this machine, and on those that share a cache with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kiln.cache.opening import turn_of
from kiln.core.store import Store
from kiln.recipes.plan import Plan

if TYPE_CHECKING:
    from kiln.cache.shared import SharedResults


@contextlib.contextmanager
def turn(
    store: Store,
    shared: SharedResults | None,
    plan: Plan,
    check_stop: Callable[[], None],
    note: Callable[[str], None],
) -> Iterator[None]:
    """Wait for others that make the same, then keep them waiting.

    Args:
        check_stop: called while waiting; ends it with an exception.
        note: told once who is waited for.
    """
    told: set[str] = set()

    def waiting(where: str = "") -> None:
        check_stop()
        if where not in told:
            told.add(where)
            note(f"{plan.model}: waiting for another kiln to finish it{where}")

    with (
        store.lock(f"model-{plan.model}", while_waiting=waiting),
        turn_of(shared, plan, lambda machine: waiting(f" on {machine}")),
    ):
        yield
