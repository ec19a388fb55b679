"""Open the remote cache that the environment names; import nothing where it names none."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kiln.cache.shared import Party, SharedResults
    from kiln.core.store import Store
    from kiln.recipes.steps import Plan

CACHE_VARIABLE = "KILN_CACHE"
TRUST_VARIABLE = "KILN_CACHE_TRUST"

_opened: weakref.WeakSet[SharedResults] = weakref.WeakSet()


def shared_results(store: Store, on_note: Callable[[str], object]) -> SharedResults | None:
    """Open the cache of ``KILN_CACHE``; None if it is not set. Nothing is asked of it yet.

    Raises:
        UsageError: the variable, or the trust file, is wrong, or a library is not installed.
        SigningKeyError: the signing key cannot be used.
    """
    text = os.environ.get(CACHE_VARIABLE, "")
    if not text:
        return None
    from kiln.cache.address import parse_address, refuse_missing
    from kiln.cache.objects import FsspecObjects
    from kiln.cache.remote import ObjectCache
    from kiln.cache.shared import SharedResults

    address = parse_address(text)
    refuse_missing(address)
    cache = ObjectCache(FsspecObjects(address))
    shared = SharedResults(cache, store, _party(), str(address), on_note)
    _opened.add(shared)
    return shared


def _party() -> Party:
    """Return the own key, and the signers of the trust file that ``KILN_CACHE_TRUST`` names."""
    from kiln.cache.shared import Party
    from kiln.core.errors import UsageError
    from kiln.signing import keys
    from kiln.signing.signer import SIGN_VARIABLE
    from kiln.signing.trust import Signer, Trust

    named = os.environ.get(TRUST_VARIABLE, "")
    signers: tuple[Signer, ...] = ()
    if named:
        from kiln.signing.trust_file import load_policy

        signers = load_policy(Path(named).expanduser()).signers
    key = None
    if os.environ.get(SIGN_VARIABLE, "") != "keyless":
        key = keys.load_or_create_key()
        signers = (Signer("the own key", key.public_pem, key.key_id), *signers)
    if not any(one.public_pem for one in signers):
        raise UsageError(
            f"{CACHE_VARIABLE} is set, but there is no key whose results could be taken.",
            f"Name a trust file with keys in {TRUST_VARIABLE}: results of stages are signed with "
            "keys.",
        )
    return Party(key, Trust(signers))


def finish_all() -> None:
    """Wait for the uploads of all caches that were opened, each within its bound."""
    for shared in list(_opened):
        shared.finish()


@contextlib.contextmanager
def turn_of(
    shared: SharedResults | None, plan: Plan, on_wait: Callable[[str], object]
) -> Iterator[None]:
    """Hold the lease on a plan where there is a cache; see :meth:`SharedResults.turn`."""
    if shared is None:
        yield
    else:
        with shared.turn(plan, on_wait):
            yield
