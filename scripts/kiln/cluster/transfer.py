"""How contents travel between the driver's store and a worker's.

An order names one way. A worker takes part in every way that it could use, and declares them, so a
scheduler gives it no order of another. There is one so far: a store that both see. A remote cache
is another :class:`Transfer`: its driver puts a plan's inputs before the order goes out, and gets
the results' contents when the answer is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Protocol

from kiln.core.errors import ClusterError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.recipes.steps import Files, Plan

_KIND, _NAME = "cluster", "store"


class Transfer(Protocol):
    """One way for contents, seen from one side; both sides' ``name`` is the same.

    Attributes:
        name: of the way, with what both sides must have in common.
        described: what that is, for people.
    """

    name: str
    described: str

    def send(self, plan: Plan) -> None:
        """Make the inputs of ``plan`` available to the worker (driver)."""
        ...

    def fetch(self, plan: Plan) -> None:
        """Bring the inputs of ``plan`` into this store (worker).

        Raises:
            ClusterError: one is missing.
        """
        ...

    def deliver(self, results: Mapping[str, StageResult]) -> None:
        """Make results available to the driver (worker)."""
        ...

    def receive(self, plan: Plan) -> None:
        """Bring the results of ``plan`` into this store (driver)."""
        ...


class SharedStore:
    """One store that driver and worker both see, on one machine or a network file system.

    It has a random name of its own, so that the same path on two machines is no proof of it.
    """

    described = "the store"

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = f"store-{_name_of(store)}"

    def send(self, plan: Plan) -> None:
        """Do nothing: the worker sees it already."""

    def fetch(self, plan: Plan) -> None:
        """Check that the inputs are here.

        Raises:
            ClusterError: one is missing.
        """
        for digest, what in inputs_of(plan).items():
            if not self._store.has(digest):
                raise ClusterError(
                    f"{plan.model}: the worker's store does not hold {what}, {digest}.",
                    "Run the command again: the driver fetches what it needs.",
                )

    def deliver(self, results: Mapping[str, StageResult]) -> None:
        """Do nothing: the driver sees them already."""

    def receive(self, plan: Plan) -> None:
        """Do nothing: the worker wrote to this store."""


def transfers(store: Store) -> dict[str, Transfer]:
    """Return the ways that this side can use, by name; the preferred one first."""
    shared = SharedStore(store)
    return {shared.name: shared}


def inputs_of(plan: Plan) -> dict[str, str]:
    """Return the contents that no step of a plan makes: SHA-256 -> where it is read."""
    return {
        digest: "/".join(filter(None, (step.id, name, path)))
        for step in plan.steps
        for name, item in step.inputs.items()
        if isinstance(item, Files)
        for path, digest in item.files.items()
    }


def _name_of(store: Store) -> str:
    with store.lock("cluster-store"):
        known = (store.get_ref(_KIND, _NAME) or {}).get("id")
        if not isinstance(known, str):
            known = secrets.token_hex(8)
            store.set_ref(_KIND, _NAME, {"id": known})
        return known
