"""Take results of a plan from a remote cache, and offer new ones.

Whatever the cache does, a build goes on: what cannot be had in time is made here. Each content is
compared with its digest, each result is taken only with a trusted signature.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kiln.cache import envelope, leases
from kiln.cache.calls import DEADLINE, AbsentError, Calls
from kiln.cache.remote import ObjectCache
from kiln.cache.uploads import Uploads
from kiln.core.digest import key_of
from kiln.core.errors import CacheError, DigestMismatchError, KilnError
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.recipes.steps import Plan, Step
from kiln.signing.keys import SigningKey
from kiln.signing.trust import STAGE_RESULT, Trust

#: Seconds that the end of a run waits for its uploads.
FINISH_PATIENCE = 60.0

_STOP_PATIENCE = 2.0  # seconds for giving up a lease when the work has failed or was stopped
_RECOMPUTED = "no more results are taken from it in this run; what is missing is made here"
_NOT_SENT = "no more results are sent to it in this run; `kiln cache push` sends them later"


@dataclass(frozen=True)
class Party:
    """Who signs here, and whose results are taken.

    Attributes:
        key: signs results that are offered; None: none are.
        trust: the signers, with their rights.
    """

    key: SigningKey | None
    trust: Trust

    def workers(self, model: str) -> list[str]:
        """Return the key ids whose results for a model are taken, the own key's first."""
        able = [one for one in self.trust.signers if one.public_pem]
        allowed = [one.key_id for one in able if not one.lacks(STAGE_RESULT, model)]
        return list(dict.fromkeys(allowed))


@dataclass
class Traffic:
    """What came from a cache and went there: results, contents, and bytes of contents."""

    results: int = 0
    contents: int = 0
    size: int = 0


class SharedResults:
    """Results that machines share through a remote cache.

    Args:
        cache: the remote cache.
        store: this machine's.
        party: who signs, and who is trusted.
        place: names the cache in messages.
        on_note: told what people should know, once each.
        times: of leases.
        deadline: seconds for a small request.
    """

    def __init__(
        self,
        cache: ObjectCache,
        store: Store,
        party: Party,
        place: str,
        on_note: Callable[[str], object],
        *,
        times: leases.Times | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        self.cache, self.store, self.party = cache, store, party
        self.place, self._on_note = place, on_note
        self._times = times or leases.Times()
        self._reading = Calls(place, self._left(_RECOMPUTED), deadline=deadline)
        # Nobody waits for uploads, but at the end, which has a bound of its own.
        self._writing = Calls(
            place, self._left(_NOT_SENT), patience=None, absence=False, deadline=deadline
        )
        self._uploads = Uploads()
        self._lock = threading.Lock()
        self._absent: set[str] = set()  # keys that the cache lacked when asked
        self._wrong: set[str] = set()  # contents that are not what they should be there
        self._sent: set[str] = set()
        self._sent_keys: set[str] = set()
        self._told: set[str] = set()
        self._dropped = 0
        self.received, self.sent = Traffic(), Traffic()

    def probe(self) -> None:
        """Ask the cache something, for a command that is useless without it.

        Raises:
            CacheError: it failed.
        """
        with contextlib.suppress(AbsentError):
            self._reading.one(lambda: self.cache.get_result("0" * 64, "0" * 64))

    # -- taking ---------------------------------------------------------------------------------

    def fetch(self, plan: Plan, files: Collection[str], facts: Iterable[str] = ()) -> bool:
        """Copy into the store what it lacks of a plan and the cache has.

        Args:
            files: ids of the steps whose files are wanted.
            facts: ids of those that only need a record.

        Returns:
            Whether anything came.

        Raises:
            KilnError: of this machine: the store's disk is full, for instance.
        """
        if self._reading.aside:
            return False
        with self._reading.waiting():
            records = {step.id: self.store.remembered(step.key) for step in plan.steps}
            known = {step_id: item for step_id, item in records.items() if item is not None}
            whole = {step_id for step_id, item in known.items() if self.store.holds(item)}
            wanted = [*files, *(step_id for step_id in facts if step_id not in known)]
            lacking = plan.closure(wanted, whole)
            came = self._results(plan.model, [step for step in lacking if step.id not in known])
            todo = self._take_files(plan, files, facts, {**came, **known}, whole)
            for result in came.values():
                self.store.remember(result)  # last: its contents are here by now
        saved = {step.id for step in lacking} - {step.id for step in todo}
        self._reading.earn(sum(came[step_id].seconds for step_id in saved & came.keys()))
        if saved:
            self._note(f"{plan.model}: {len(saved)} results taken from the cache")
        return bool(saved or came)

    def take(self, key: str, model: str) -> StageResult | None:
        """Copy one result of the cache into the store, with all its files.

        Returns:
            The result; None if the cache lacks it, or has none that someone trusted has signed.

        Raises:
            KilnError: of this machine, as :meth:`fetch`.
        """
        with self._reading.waiting():
            for worker in self.party.workers(model):
                (outcome,) = self._reading.each(
                    [functools.partial(self._result, key, worker, model)]
                )
                if isinstance(outcome, StageResult):
                    lacking = [b for b in outcome.files.values() if not self._here(b)]
                    return None if self._contents(lacking) else outcome
        return None

    def forget_absent(self, plan: Plan) -> None:
        """Ask again for results of a plan that the cache did not have."""
        self._absent.difference_update(step.key for step in plan.steps)

    def _results(self, model: str, steps: Sequence[Step]) -> dict[str, StageResult]:
        """Return the trusted results of the cache, by step id."""
        left = [step for step in steps if step.key not in self._absent]
        workers = self.party.workers(model)
        found: dict[str, StageResult] = {}
        for worker in workers:
            works = [functools.partial(self._result, step.key, worker, model) for step in left]
            for step, outcome in zip(left, self._reading.each(works), strict=True):
                if isinstance(outcome, StageResult):
                    found[step.id] = outcome
            left = [step for step in left if step.id not in found]
        if not self._reading.aside:
            self._absent.update(step.key for step in left)
            if left and not found:
                self._tell_others(left[0].key, workers)
        self.received.results += len(found)
        return found

    def _result(self, key: str, worker: str, model: str) -> StageResult:
        data = self.cache.get_result(key, worker)
        return envelope.open_envelope(data, key, model, self.party.trust)

    def _take_files(
        self,
        plan: Plan,
        files: Collection[str],
        facts: Iterable[str],
        records: Mapping[str, StageResult],
        whole: Collection[str],
    ) -> list[Step]:
        """Fetch files that are wanted, or read by what has to run; return the steps that must.

        A step whose files are not all to be had must run, and needs others' files in turn.
        """
        lost: set[str] = set()
        while True:
            have = {*whole, *(records.keys() - lost)}
            wanted = [*files, *(step_id for step_id in facts if step_id not in records)]
            todo = plan.closure(wanted, have)
            used = {*files}.union(*(step.upstream() for step in todo))
            needed = [step_id for step_id in used & have if step_id not in whole]
            blobs = {blob.sha256: blob for one in needed for blob in records[one].files.values()}
            missing = self._contents([b for b in blobs.values() if not self._here(b)])
            if not missing:
                return todo
            lost |= {
                one
                for one in needed
                if any(blob.sha256 in missing for blob in records[one].files.values())
            }

    def _contents(self, blobs: Sequence[Blob]) -> set[str]:
        """Fetch contents; return the digests of those that could not be had."""
        works = [functools.partial(self._content, blob) for blob in blobs]
        limits = [self._reading.deadline_for(blob.size) for blob in blobs]
        outcomes = self._reading.each(works, limits)
        failed = {
            blob.sha256
            for blob, outcome in zip(blobs, outcomes, strict=True)
            if isinstance(outcome, CacheError)
        }
        self.received.contents += len(blobs) - len(failed)
        self.received.size += sum(blob.size for blob in blobs if blob.sha256 not in failed)
        return failed

    def _content(self, blob: Blob) -> None:
        try:
            self.cache.get(blob, self.store)
        except DigestMismatchError:
            self._wrong.add(blob.sha256)  # to be written again, though there is one
            raise

    def _here(self, blob: Blob) -> bool:
        return self.store.holds(StageResult("", "", {"": blob}))

    def _tell_others(self, key: str, workers: Collection[str]) -> None:
        """Say once that there are results of others, which are not taken."""
        if "others" in self._told:
            return
        self._told.add("others")
        with contextlib.suppress(CacheError):
            listed = self._reading.one(lambda: self.cache.results(key))
            others = sorted({worker for _, worker in listed} - {*workers})
            if others:
                who = f"key {others[0][:16]}" + (f" and {len(others) - 1} more" * (len(others) > 1))
                self._note(
                    f"the cache has results signed by others ({who}), which are not taken; "
                    "KILN_CACHE_TRUST names a trust file with those to take"
                )

    # -- offering -------------------------------------------------------------------------------

    def offer(self, result: StageResult) -> None:
        """Send a result that the store has to the cache, beside the work."""
        if self.party.key is None or self._writing.aside:
            return
        if not self._uploads.add(lambda: self._send_quietly(result)):
            self._dropped += 1

    def _send_quietly(self, result: StageResult) -> None:
        try:
            self.send(result)
        except KilnError:
            self._dropped += 1

    def send(self, result: StageResult) -> None:
        """Send a result to the cache now: the contents first.

        Raises:
            CacheError: the cache failed or refused it.
            StoreError: the store has lost a content of it.
            SigningKeyError: the key cannot be used.
        """
        assert self.party.key is not None
        sealed = envelope.seal(result, self.party.key)
        blobs = {blob.sha256: blob for blob in result.files.values()}
        new = [blob for digest, blob in blobs.items() if digest not in self._sent]
        works = [functools.partial(self._put, blob) for blob in new]
        limits = [self._writing.deadline_for(blob.size) for blob in new]
        for outcome in self._writing.each(works, limits):
            if isinstance(outcome, CacheError):
                raise outcome
        worker = self.party.key.key_id
        self._writing.one(lambda: self.cache.put_result(result.key, worker, sealed))
        with self._lock:
            self.sent.results += 1
            self._sent_keys.add(result.key)

    def has_sent(self, result: StageResult) -> bool:
        """Whether the cache has a result from here, sent in this run."""
        return result.key in self._sent_keys

    def _put(self, blob: Blob) -> None:
        digest = blob.sha256
        path = self.store.path(digest)
        if digest in self._wrong or not self.cache.has(digest):
            with self.store.scratch() as scratch:
                size = self.cache.put(blob, path, scratch)
            with self._lock:
                self.sent.contents += 1
                self.sent.size += size
        self._wrong.discard(digest)
        self._sent.add(digest)

    def finish(self, patience: float = FINISH_PATIENCE) -> None:
        """Wait for uploads, at most ``patience`` seconds; tell what was not sent."""
        left = self._uploads.finish(patience)
        dropped, self._dropped = self._dropped, 0
        if left or dropped:
            self._note(
                f"{left + dropped} results were not sent to the cache; `kiln cache push` sends them"
            )

    # -- taking turns ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self, plan: Plan, on_wait: Callable[[str], object]) -> Iterator[None]:
        """Hold the lease on a plan against other machines, if anything of it has to run.

        Args:
            on_wait: called about twice a second with the name of the machine that has it; an
                exception from it ends the waiting.
        """
        lease = self._turn(plan, on_wait)
        if lease is None:
            yield
            return
        try:
            yield
        except BaseException:
            lease.release(_STOP_PATIENCE)
            raise
        # Behind the uploads: who waits for the lease finds all results then.
        if not self._uploads.add_after(lease.release):
            lease.release(_STOP_PATIENCE)

    def _turn(self, plan: Plan, on_wait: Callable[[str], object]) -> leases.Lease | None:
        keys = [step.key for step in plan.steps]
        name = f"leases/{key_of(sorted(keys))}.json"
        objects = self.cache.objects
        while self.party.key is not None and not (self._reading.aside or self._writing.aside):
            if not self.lacking(plan):
                return None
            self.fetch(plan, plan.published(), plan.ids())
            if self._reading.aside or not self.lacking(plan):
                return None
            lease = leases.Lease(objects, name, self._writing, self._times)
            try:
                if lease.take():
                    return lease
                if not leases.wait_for(objects, name, self._reading, self._times, on_wait):
                    return None
            except CacheError:
                return None
            self.forget_absent(plan)
        return None

    def lacking(self, plan: Plan) -> list[Step]:
        """Return the steps of a plan that would have to run with what the store has."""
        known = {step.id: self.store.remembered(step.key) for step in plan.steps}
        whole = {step_id for step_id, one in known.items() if one and self.store.holds(one)}
        facts = [step_id for step_id, one in known.items() if one is None]
        return plan.closure([*plan.published(), *facts], whole)

    # -- telling --------------------------------------------------------------------------------

    def _left(self, meaning: str) -> Callable[[str], None]:
        def tell(why: str) -> None:
            self._note(f"{why}: {meaning}")

        return tell

    def _note(self, text: str) -> None:
        # Told from threads of the pool, too: a reporter that is closed, or a user who has stopped
        # the work, is no reason for a transfer to fail.
        with contextlib.suppress(KilnError):
            self._on_note(text)
