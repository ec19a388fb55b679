"""Count what a remote cache holds, and remove what is old or too much."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from kiln.cache import envelope
from kiln.cache.calls import AbsentError, Calls
from kiln.cache.objects import ASIDE, Listed
from kiln.cache.remote import ObjectCache, blob_name
from kiln.core.errors import CacheError
from kiln.core.stage_result import StageResult

#: Seconds for a listing, which may be of a hundred thousand objects.
LISTING = 300.0

#: Seconds that a new object is left alone: a run that is sending may not have named it yet.
GRACE = 24 * 3600.0

#: Objects read or removed between two looks at what failed.
_BATCH = 256


@dataclass
class Count:
    """Number of objects, and their bytes in the cache."""

    number: int = 0
    size: int = 0

    def add(self, item: Listed) -> None:
        """Count an object."""
        self.number += 1
        self.size += item.size


@dataclass
class Statistics:
    """What a cache holds; ``workers`` are the results by the key id of their signer."""

    results: Count = field(default_factory=Count)
    contents: Count = field(default_factory=Count)
    workers: dict[str, Count] = field(default_factory=dict)


def statistics(cache: ObjectCache, calls: Calls) -> Statistics:
    """Count what the cache holds; CacheError if it cannot be listed."""
    found = Statistics()
    for (_, worker), item in calls.one(cache.results, LISTING).items():
        found.results.add(item)
        found.workers.setdefault(worker, Count()).add(item)
    for item in calls.one(cache.blobs, LISTING).values():
        found.contents.add(item)
    return found


@dataclass
class Removed:
    """What :func:`collect_garbage` removed, or would remove, and what remains."""

    results: Count = field(default_factory=Count)
    contents: Count = field(default_factory=Count)
    remaining: Count = field(default_factory=Count)


_Key = tuple[str, str]


def collect_garbage(
    cache: ObjectCache,
    calls: Calls,
    *,
    older_than: float | None = None,
    at_most: int | None = None,
    grace: float = GRACE,
    dry_run: bool = False,
) -> Removed:
    """Remove results that are old or too many, then the contents that no other result names.

    What is younger than ``grace`` stays: a run may be about to name it. A result is as old as its
    object; ages are those of the cache's own clock.

    Args:
        older_than: remove results of at least that age, in seconds.
        at_most: then remove the oldest until results and the contents that they name have at most
            so many bytes.
        dry_run: only count.

    Raises:
        CacheError: the cache failed; nothing is removed whose use is not known.
    """
    now = _now(cache, calls)
    listed = calls.one(cache.results, LISTING)
    blobs = calls.one(cache.blobs, LISTING)
    results = _read(cache, calls, listed)
    removable = {key: item for key, item in listed.items() if now - item.written >= grace}
    gone = {key for key in removable if results[key] is None}
    if older_than is not None:
        gone |= {key for key, item in removable.items() if now - item.written >= older_than}
    if at_most is not None:
        gone |= _too_many(listed, results, blobs, removable, gone, at_most)
    removed = Removed()
    for key in gone:
        removed.results.add(listed[key])
    if not dry_run:
        _remove(cache, calls, [listed[key].name for key in gone])
        # Results that came meanwhile count, too.
        listed = calls.one(cache.results, LISTING)
        new = {key: item for key, item in listed.items() if key not in results or key in gone}
        results = {**results, **_read(cache, calls, new)}
        gone -= new.keys()
    kept = {key: results[key] for key in listed.keys() - gone}
    named = set(_named(kept.values()))
    unnamed = {
        digest: item
        for digest, item in blobs.items()
        if digest not in named and now - item.written >= grace
    }
    for item in unnamed.values():
        removed.contents.add(item)
    if not dry_run:
        _remove(cache, calls, [blob_name(digest) for digest in unnamed])
        _remove(cache, calls, _unfinished(cache, calls, now - grace))
    for item in (*(listed[key] for key in kept), *(b for d, b in blobs.items() if d in named)):
        removed.remaining.add(item)
    return removed


def _too_many(
    listed: Mapping[_Key, Listed],
    results: Mapping[_Key, StageResult | None],
    blobs: Mapping[str, Listed],
    removable: Mapping[_Key, Listed],
    gone: Collection[_Key],
    at_most: int,
) -> set[_Key]:
    """Return the oldest results without which the others, and their contents, fit."""
    left = {key: results[key] for key in listed.keys() - set(gone)}
    users: dict[str, int] = {}
    for digest in _named(left.values()):
        users[digest] = users.get(digest, 0) + 1
    size = sum(listed[key].size for key in left)
    size += sum(blobs[digest].size for digest in users if digest in blobs)
    more: set[_Key] = set()
    for key in sorted(left.keys() & removable.keys(), key=lambda key: listed[key].written):
        if size <= at_most:
            break
        more.add(key)
        size -= listed[key].size
        for digest in _named([left[key]]):
            users[digest] -= 1
            if not users[digest] and digest in blobs:
                size -= blobs[digest].size
    return more


def _named(results: Iterable[StageResult | None]) -> list[str]:
    """List the contents that results name, each once for each result."""
    return [
        digest
        for result in results
        if result is not None
        for digest in {blob.sha256 for blob in result.files.values()}
    ]


def _read(
    cache: ObjectCache, calls: Calls, keys: Collection[_Key]
) -> dict[_Key, StageResult | None]:
    """Read what results name, unverified; None for what is no result, or is gone by now."""
    found: dict[_Key, StageResult | None] = {}
    order = list(keys)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        works = [functools.partial(cache.get_result, *key) for key in batch]
        for key, outcome in zip(batch, calls.each(works), strict=True):
            if isinstance(outcome, AbsentError):
                found[key] = None
            elif isinstance(outcome, CacheError):
                raise outcome
            else:
                found[key] = envelope.peek(outcome, key[0])
    return found


def _remove(cache: ObjectCache, calls: Calls, names: Collection[str]) -> None:
    order = list(names)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        for outcome in calls.each([functools.partial(cache.objects.remove, n) for n in batch]):
            if isinstance(outcome, CacheError):
                raise outcome


def _unfinished(cache: ObjectCache, calls: Calls, before: float) -> list[str]:
    """List what killed runs left: files that were not renamed, and leases."""
    found = calls.one(lambda: cache.objects.listed(""), LISTING)
    return [
        item.name
        for item in found
        if item.written < before
        and (
            (item.name.endswith(ASIDE) and item.name.startswith(("blobs/", "results/", "leases/")))
            or (item.name.startswith("leases/") and item.name.endswith(".json"))
        )
    ]


def _now(cache: ObjectCache, calls: Calls) -> float:
    """Return the time by the cache's own clock: that of an object written now."""
    name = f"leases/now-{secrets.token_hex(8)}.json"

    def written() -> float:
        cache.objects.write(name, b"{}")
        try:
            return next(i.written for i in cache.objects.listed("leases") if i.name == name)
        finally:
            cache.objects.remove(name)

    return calls.one(written, LISTING)
