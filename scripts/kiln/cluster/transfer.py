"""How contents travel between the driver's store and a worker's.

An order names one way. A worker takes part in every way that it could use, and declares them, so a
scheduler gives it no order of another. The ways: a remote cache (``KILN_CACHE``) that both use, and
a store that both see.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Protocol

from kiln.cache.opening import shared_results
from kiln.core.digest import key_of
from kiln.core.errors import ClusterError
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.recipes.steps import Files, Plan

if TYPE_CHECKING:
    from kiln.cache.shared import SharedResults

_KIND, _NAME = "cluster", "store"


class Transfer(Protocol):
    """One way for contents, seen from one side; both sides' ``name`` is the same.

    Attributes:
        name: of the way, with what both sides must have in common.
    """

    name: str

    def send(self, plan: Plan) -> None:
        """Make the inputs of ``plan`` available to the worker (driver).

        Raises:
            KilnError: that is not possible now.
        """
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


class ThroughCache:
    """The remote cache of ``KILN_CACHE``, where both sides name the same.

    The driver sends a plan's inputs as a result of their own, whose key is their digest. Both sides
    take only what is signed by those they trust (docs/cache.md).
    """

    def __init__(self, shared: SharedResults) -> None:
        self.shared = shared
        self.name = f"cache-{key_of(shared.place)[:16]}"

    def send(self, plan: Plan) -> None:
        """Send a plan's inputs.

        Raises:
            KilnError: the cache failed.
        """
        self.shared.send(_as_result(plan, self.shared.store))

    def fetch(self, plan: Plan) -> None:
        """Take a plan's inputs.

        Raises:
            ClusterError: they are not in the cache, or not signed by someone trusted.
        """
        wanted = inputs_of(plan)
        if all(map(self.shared.store.has, wanted)):
            return
        found = self.shared.take(_key_of(wanted), plan.model)
        if found is None or not all(map(self.shared.store.has, wanted)):
            raise ClusterError(
                f"{plan.model}: the worker cannot have its inputs from the cache.",
                "Give driver and worker the same KILN_CACHE, and let each trust the other's key "
                "(KILN_CACHE_TRUST).",
            )

    def deliver(self, results: Mapping[str, StageResult]) -> None:
        """Send results, those that were not sent while the plan ran."""
        self.shared.finish()
        for result in results.values():
            if not self.shared.has_sent(result):
                self.shared.send(result)

    def receive(self, plan: Plan) -> None:
        """Take the results of a plan."""
        self.shared.forget_absent(plan)
        self.shared.fetch(plan, plan.published(), plan.ids())


def transfers(store: Store, on_note: Callable[[str], object]) -> dict[str, Transfer]:
    """Return the ways that this side can use, by name; the preferred one first.

    Args:
        on_note: told what people should know of the cache, once each.

    Raises:
        UsageError: ``KILN_CACHE`` is wrong.
    """
    ways: list[Transfer] = [SharedStore(store)]
    cache = shared_results(store, on_note)
    if cache is not None and cache.party.key is not None:  # without a key, nothing can be sent
        ways.insert(0, ThroughCache(cache))
    return {way.name: way for way in ways}


def _as_result(plan: Plan, store: Store) -> StageResult:
    """Return the inputs of a plan in the form of a stage's result, by their digests."""
    wanted = inputs_of(plan)
    files = {digest: Blob(digest, store.path(digest).stat().st_size) for digest in sorted(wanted)}
    return StageResult(_key_of(wanted), "inputs", files)


def _key_of(wanted: Collection[str]) -> str:
    return key_of({"cluster": "inputs", "contents": sorted(wanted)})


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
