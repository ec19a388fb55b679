"""The driver's side of a cluster: give plans to its scheduler, and take the results."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from distributed import Client, Future

from kiln.cluster.address import ClusterAddress
from kiln.cluster.local import LocalWorkers, local_workers
from kiln.cluster.order import Answer, Order
from kiln.cluster.security import quiet_dask, security_for
from kiln.cluster.standing import FIELD, Standing, slots_of
from kiln.cluster.transfer import SharedStore, Transfer, transfers
from kiln.cluster.worker import TOPIC, run_order
from kiln.core.errors import CancelledError, ClusterError, DigestMismatchError, KilnError
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.images.lock import read_lock
from kiln.project.folders import Project
from kiln.recipes.steps import Plan
from kiln.running.cached import look_up
from kiln.running.executor_protocol import OnEvent
from kiln.running.limits import Limits

#: Seconds that a scheduler gets to answer.
_PATIENCE = 15

#: Plans that may wait for workers at a time; each has a thread, which sleeps.
_MOST = 512

#: How often one plan is asked for where a worker's machine fails, or its results are not whole.
_ATTEMPTS = 3

#: Seconds for an answer to come from its worker, which has it: many may be on their way.
_TRANSFER = 300

#: Seconds that a stopped driver spends on telling the scheduler.
_STOP_PATIENCE = 2

#: Seconds between two looks at whether there is still somebody to wait for.
_LOOK = 0.5

#: Seconds for which what was seen of the workers counts.
_FRESH = 3.0

#: What an event of a stage may have, besides model, id and state.
_FIELDS = {"done": int, "total": int, "message": str, "seconds": float, "peak_rss": int}
_STATES = ("started", "progress", "warning", "finished", "cached")

_LOST = "Run the command again: finished models are published, and finished stages are kept."


class Cluster:
    """A connection to a scheduler, made when the first plan needs it.

    Args:
        project: whose stage code and image locks the workers must have, too.
        on_note: receives what is to be told about the cluster itself.
    """

    most = _MOST

    def __init__(
        self,
        address: ClusterAddress,
        project: Project,
        store: Store,
        on_note: Callable[[str], None],
    ) -> None:
        self.address = address
        self.store = store
        self._project, self._on_note = project, on_note
        self._security: Any = None if address.local else security_for(address, "client")
        self._stack = contextlib.ExitStack()
        self._connecting = threading.Lock()
        self._lock = threading.Lock()  # held for moments only: `stop` must not wait
        self._stopped = threading.Event()
        self._client: Client | None = None
        self._failure: KilnError | None = None
        self._local: LocalWorkers | None = None
        self._standing: Standing | None = None
        self._listeners: dict[str, list[queue.SimpleQueue[Any]]] = {}
        self._workers: dict[str, tuple[str, Standing | None]] = {}
        self._verdicts: dict[tuple[frozenset[str], int, str], dict[str, str]] = {}
        self._seen = 0.0
        self._noted: set[str] = set()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def executor(self, on_event: OnEvent) -> ClusterExecutor:
        """Return an executor for one model; ``on_event`` receives its events."""
        return ClusterExecutor(self, on_event)

    def stop(self) -> None:
        """Give up all plans; the scheduler has their containers stopped."""
        self._stopped.set()
        with self._lock:
            client, self._client = self._client, None
            stack = self._stack.pop_all()
        # Dask raises whatever it likes when the other side has gone; there is nothing to be saved.
        with contextlib.suppress(Exception):
            if client is not None:
                client.close(timeout=_STOP_PATIENCE)
        with contextlib.suppress(Exception):
            stack.close()

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped.is_set()

    @property
    def standing(self) -> Standing:
        """What the workers must have in common with this driver."""
        with self._lock:
            if self._standing is None:
                locked = read_lock(self._project.docker)
                images = {name: entry.identity for name, entry in locked.items()}
                self._standing = Standing.here(self._project.stages, images, self.ways)
            return self._standing

    @functools.cached_property
    def ways(self) -> dict[str, Transfer]:
        """The ways for contents that this driver can use, by name."""
        if self.address.local:  # workers of this machine, with this store
            store = SharedStore(self.store)
            return {store.name: store}
        return transfers(self.store, self._on_note)

    @property
    def way(self) -> Transfer:
        """How contents travel."""
        return next(iter(self.ways.values()))

    def client(self) -> Client:
        """Return the connection.

        Raises:
            ClusterError: the scheduler does not answer, or none of its workers fits.
            CancelledError: :meth:`stop` was called.
        """
        standing = self.standing
        with self._connecting:
            if self._failure is not None:  # for every model the same, and no second wait
                raise self._failure
            if self._client is None and not self._stopped.is_set():
                try:
                    client = self._connected()
                    with self._lock:
                        self._client = client
                    self._refuse_strangers(client, standing)
                except KilnError as error:
                    self._failure = error
                    raise
            client_now = self._client
        if client_now is None or self._stopped.is_set():
            self.stop()  # it may have begun before there was anything to stop
            raise CancelledError("Stopped.")
        return client_now

    def _connected(self) -> Client:
        quiet_dask()
        url = self.address.url
        if self.address.local:
            workers = local_workers(self.address.local, self.store)
            with self._lock:
                self._local = local = self._stack.enter_context(workers)
            url, self._security = local.url, local.security
        try:
            client = Client(url, security=self._security, timeout=_PATIENCE, set_as_default=False)
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            cause = str(error.__cause__ or error).strip().rstrip(".")[:300]
            raise ClusterError(
                f"The scheduler at {url} does not answer: {cause or type(error).__name__}.",
                "Check that it runs, that this machine reaches it, and that both use the same "
                "certificates.",
            ) from error
        client.subscribe_topic(TOPIC, self._on_topic)
        return client

    def _refuse_strangers(self, client: Client, standing: Standing) -> None:
        """Tell which workers get nothing of this driver, and why.

        Raises:
            ClusterError: there are workers, and it is all of them.
        """
        self._look(client)
        reasons = {name: standing.why_not(worker) for name, worker in self._workers.values()}
        refused = {name: why for name, why in reasons.items() if why}
        told = [f"{name}: {why}" for name, why in sorted(refused.items())]
        if refused and len(refused) == len(reasons):
            raise ClusterError(
                f"None of the {len(refused)} workers at {self.address} can work for this driver. "
                + "; ".join(told[:5]),
                "Give workers and driver the same version of kiln, and the same store or cache "
                "(docs/cluster.md).",
            )
        for text in told:
            self._on_note(f"not used: worker {text}")

    def _look(self, client: Client) -> bool:
        """See which workers there are, not too often; return whether it is known."""
        now = time.monotonic()
        if self._workers and now - self._seen < _FRESH:
            return True
        self._seen = now
        try:
            found = client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, RuntimeError, TimeoutError):  # it is lost, or just very busy
            return False
        self._verdicts = {}
        self._workers = {
            address: (str(worker["name"]), Standing.parse(worker.get(FIELD)))
            for address, worker in found.items()
        }
        return True

    def watch(self, client: Client, order: Order) -> None:
        """Look whether an order may still be answered.

        Raises:
            ClusterError: the scheduler is lost, or no worker of this machine lives.
            CancelledError: :meth:`stop` was called.
        """
        if self._stopped.is_set():
            raise CancelledError("Stopped.")
        if client.status != "running":
            raise self.lost()
        if self._local is not None and (why := self._local.why_none_lives()):
            raise ClusterError(f"The workers on this machine have ended: {why}", _LOST)
        if not self._look(client):
            return
        reasons = self._reasons(order)
        if not all(reasons.values()) or (self._local is not None and not reasons):
            return
        told = "; ".join(f"{name}: {why}" for name, why in sorted(reasons.items())[:3])
        text = f"{order.plan.model}: waiting for a worker" + (f" ({told})" if told else "")
        with self._lock:
            new = text not in self._noted
            self._noted.add(text)
        if new:
            self._on_note(text)

    def _reasons(self, order: Order) -> dict[str, str]:
        """Return why each worker cannot run an order, by name; "" for one that can.

        Hundreds of plans wait at a time, and ask alike: it is found out once for each look.
        """
        asked = (frozenset(order.images), slots_of(order.limits), order.way)
        known = self._verdicts.get(asked)
        if known is None:
            known = {}
            for name, worker in list(self._workers.values()):
                why = self.standing.why_not(worker)
                known[name] = why or (self.standing.lacks(worker, order) if worker else "")
            self._verdicts[asked] = known
        return known

    def lost(self) -> ClusterError:
        """Return the error for a scheduler that has gone."""
        return ClusterError(f"The scheduler at {self.address} is lost.", _LOST)

    @contextlib.contextmanager
    def listening(self, key: str) -> Any:
        """Yield a queue that receives the events of a task."""
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            self._listeners.setdefault(key, []).append(events)
        try:
            yield events
        finally:
            with self._lock:
                self._listeners[key].remove(events)

    def _on_topic(self, event: tuple[float, Any]) -> None:
        """Hand an event on; called by Dask's own thread, which must not wait."""
        said = event[1]
        if isinstance(said, Mapping):
            for events in list(self._listeners.get(str(said.get("key")), ())):
                events.put(said)

    def others(self, client: Client, failed: Collection[str]) -> list[str]:
        """Return the addresses of suitable workers whose names are not among ``failed``."""
        self._seen = 0.0
        self._look(client)
        return [
            address
            for address, (name, worker) in self._workers.items()
            if name not in failed and not self.standing.why_not(worker)
        ]


class ClusterExecutor:
    """Runs one model's plans on a cluster."""

    def __init__(self, cluster: Cluster, on_event: OnEvent) -> None:
        self._cluster, self._on_event = cluster, on_event

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
        """Run what the store lacks of a plan on some worker: see :class:`Executor`.

        Raises:
            KilnError: of the kind that the failed stage reported; or the cluster's own.
        """
        store = self._cluster.store
        wanted = [*plan.files.values(), *plan.reports] if files is None else list(files)
        failed: list[str] = []
        for attempt in range(1, _ATTEMPTS + 1):
            known = look_up(plan, store, wanted, facts)
            if not known.todo:
                if attempt == 1:
                    for step in plan.steps:
                        if step.id in known.results:
                            self._event(plan, step.id, "cached")
                return known.results
            way = self._cluster.way
            order = Order(plan, limits, tuple(wanted), tuple(facts), way.name, attempt)
            answer = self._answer(order, failed)
            if answer.error is None:
                way.receive(plan)
                self._compare(plan, answer)
            elif isinstance(answer.error, CancelledError):
                # The worker is ending, or another driver gave the same plan up just then.
                continue
            elif not answer.here or attempt == _ATTEMPTS:
                raise answer.error
            else:
                failed.append(answer.worker)
                if not self._cluster.others(self._cluster.client(), failed):
                    raise answer.error
                self._on_event(
                    "note",
                    message=f"{plan.model}: {answer.worker} cannot: {answer.error.message} "
                    "Asking another worker.",
                )
        known = look_up(plan, store, wanted, facts)
        if known.todo:
            raise ClusterError(
                f"{plan.model}: the cluster's results are not whole: there is none of "
                f"{known.todo[0].id}.",
                "Run the command again. If that does not help, look at the workers' stores.",
            )
        return known.results

    def _answer(self, order: Order, failed: Collection[str]) -> Answer:
        """Have an order answered, and report its events meanwhile."""
        cluster = self._cluster
        client = cluster.client()
        cluster.way.send(order.plan)
        steps, told = set(order.plan.ids()), set()
        with cluster.listening(order.key) as events:
            workers = cluster.others(client, failed) if failed else None
            future = self._submitted(client, order, workers or None)
            future.add_done_callback(lambda _: events.put(None))
            try:
                while True:
                    try:
                        said = events.get(timeout=_LOOK)
                    except queue.Empty:
                        cluster.watch(client, order)
                        continue
                    if said is None:
                        break
                    told |= self._forward(order.plan, steps, said)
                answer = self._result(client, future)
            finally:
                with contextlib.suppress(Exception):
                    future.release()
        for step_id, (seconds, peak) in answer.ran.items():
            if step_id in steps - told:  # it ran before this driver listened
                self._event(
                    order.plan, step_id, "finished",
                    worker=answer.worker, seconds=seconds, peak_rss=peak,
                )  # fmt: skip
        return answer

    def _submitted(self, client: Client, order: Order, workers: list[str] | None) -> Future[Any]:
        standing = self._cluster.standing
        return client.submit(
            run_order,
            order.text,
            key=order.key,
            resources=standing.needs(order),
            workers=workers,
            pure=True,
            retries=0,
        )

    def _result(self, client: Client, future: Future[Any]) -> Answer:
        try:
            return Answer.parse(future.result(timeout=_TRANSFER))
        except KilnError:
            raise
        except Exception as error:  # whatever Dask, or a worker's Python, raises
            if self._cluster.stopped:
                raise CancelledError("Stopped.") from None
            if client.status != "running" or future.status in ("cancelled", "lost"):
                raise self._cluster.lost() from error
            if type(error).__name__ == "KilledWorker":
                raise ClusterError(
                    "The workers that ran it died, one after the other.",
                    "Look at their logs: they may lack memory. Run the command again.",
                ) from error
            raise ClusterError(
                f"A worker failed: {type(error).__name__}: {str(error)[:500]}.",
                "Look at the worker's log; check that it has the driver's version of kiln.",
            ) from error

    def _forward(self, plan: Plan, steps: Collection[str], said: Mapping[str, Any]) -> set[str]:
        """Report an event of a worker; return the step that has finished, if one has."""
        fields, worker = said.get("fields"), str(said.get("by"))[:200]
        if not isinstance(fields, Mapping):
            return set()
        if said.get("event") == "image":
            self._on_event("image", **_image_event(fields), worker=worker)
        if said.get("event") == "note":
            self._on_event("note", message=f"{worker}: {str(fields.get('message'))[:2000]}")
        step_id, state = fields.get("id"), fields.get("state")
        if said.get("event") != "stage" or step_id not in steps or state not in _STATES:
            return set()
        kept = {
            name: kind(fields[name])
            for name, kind in _FIELDS.items()
            if isinstance(fields.get(name), (int, float) if kind is not str else str)
        }
        self._event(plan, str(step_id), str(state), worker=worker, **kept)
        return {str(step_id)} if state == "finished" else set()

    def _event(self, plan: Plan, step_id: str, state: str, **fields: Any) -> None:
        self._on_event("stage", model=plan.model, id=step_id, state=state, **fields)

    def _compare(self, plan: Plan, answer: Answer) -> None:
        """Hold what the store has against what the worker says that it made.

        Raises:
            DigestMismatchError: they differ.
        """
        for step in plan.steps:
            result = self._cluster.store.remembered(step.key)
            said = answer.files.get(step.id)
            if result is None or said is None:
                continue  # whatever is missing will be asked for again
            if said != {path: blob.sha256 for path, blob in result.files.items()}:
                raise DigestMismatchError(
                    f"{plan.model}: {answer.worker} says of {step.id} something else than the "
                    "store holds.",
                    "Two runs made different bytes. Report it, with both processors.",
                )


def _image_event(fields: Mapping[str, Any]) -> dict[str, Any]:
    seconds = fields.get("seconds")
    return {
        **{name: str(fields.get(name, ""))[:200] for name in ("image", "phase", "detail")},
        **({"seconds": dict(seconds)} if isinstance(seconds, Mapping) else {}),
    }
