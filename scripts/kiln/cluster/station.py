"""Run orders on a worker's machine. No Dask here: the scheduler's side is in ``worker``."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from kiln.cluster.order import Answer, Order, key_of_text
from kiln.cluster.standing import Standing
from kiln.cluster.transfer import ThroughCache, Transfer
from kiln.core.digest import tree_digest
from kiln.core.errors import (
    CancelledError,
    ClusterError,
    DiskFullError,
    EngineFailedError,
    EngineUnavailableError,
    ImageMismatchError,
    KilnError,
    StoreError,
    SystemRefusedError,
)
from kiln.core.files import system_guard
from kiln.core.later import later
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.lock import locked_image
from kiln.project.folders import Project
from kiln.running.engine import Engine
from kiln.running.executor import Runner

#: Failures of this machine; another may do better.
_OF_THIS_MACHINE = (
    ClusterError,
    DiskFullError,
    EngineFailedError,
    EngineUnavailableError,
    ImageMismatchError,
    StoreError,
    SystemRefusedError,
)

#: Seconds between two reports of progress of one model: hundreds of workers report to one driver.
_PROGRESS = 0.5

#: Called with a task's key, an event's name and its fields.
Tell = Callable[[str, str, Mapping[str, Any]], None]


class Station:
    """Runs orders, one a call, several at a time.

    Args:
        standing: what this worker has declared.
        ways: how contents can travel, by name.
        may_build: whether to build an image that is not available otherwise.
    """

    def __init__(
        self,
        project: Project,
        store: Store,
        standing: Standing,
        ways: Mapping[str, Transfer],
        name: str,
        *,
        may_build: bool = False,
    ) -> None:
        self.project = project
        self.store = store
        self.standing = standing
        self.ways = ways
        self.name = name
        self.may_build = may_build
        self._lock = threading.Lock()
        self._running: dict[str, _Run] = {}
        self._closed = False

    def run(self, text: str, tell: Tell) -> str:
        """Run an order; return the :class:`Answer` as JSON. Failures are part of the answer."""
        run = _Run(self, key_of_text(text), tell)
        with self._lock:
            self._running[run.key] = run
            if self._closed:
                run.stopped.set()
        try:
            with system_guard():
                return run.answer(text).as_text()
        except KilnError as error:
            here = isinstance(error, _OF_THIS_MACHINE)
            return Answer(self.name, error=error, here=here).as_text()
        finally:
            with self._lock:
                self._running.pop(run.key, None)

    def stop(self, key: str) -> None:
        """Stop the order of that key: nobody waits for it any more."""
        with self._lock:
            run = self._running.get(key)
        if run is not None:
            run.stop()

    def close(self) -> None:
        """Stop all orders, and run no others."""
        with self._lock:
            self._closed = True
            running = list(self._running.values())
        for run in running:
            run.stop()


class _Run:
    """One order that is being run."""

    def __init__(self, station: Station, key: str, tell: Tell) -> None:
        self.key = key
        self.stopped = threading.Event()
        self._station, self._tell = station, tell
        self._engine: Engine | None = None
        self._ran: dict[str, tuple[float, int]] = {}
        self._told = 0.0

    def answer(self, text: str) -> Answer:
        order = Order.parse(text)
        self._refuse_other_code(order)
        station = self._station
        way = station.ways.get(order.way)
        if way is None:
            raise ClusterError(
                f"{station.name} does not see the contents of {order.plan.model}'s driver.",
                "Give both the same KILN_CACHE, or the same KILN_STORE on a file system that both "
                "see.",
            )
        way.fetch(order.plan)
        shared = way.shared if isinstance(way, ThroughCache) else None
        runner = Runner(
            self._own_engine, station.store, station.project.stages, self._event, shared=shared
        )
        results = runner.run(
            order.plan,
            order.limits,
            lambda: self._image(order.plan.image),
            files=order.files,
            facts=order.facts,
            others=self._image,
        )
        way.deliver(results)
        files = {
            step: {path: blob.sha256 for path, blob in result.files.items()}
            for step, result in results.items()
        }
        return Answer(station.name, files, self._ran)

    def stop(self) -> None:
        self.stopped.set()
        if self._engine is not None:
            # The caller may be the loop that everything here depends on.
            later(self._engine.stop_all)

    def _refuse_other_code(self, order: Order) -> None:
        """Look again at what was declared when the worker started: files can be edited.

        Raises:
            ClusterError: the plan's stage code, or an image's lock, is not this worker's.
        """
        docker = self._station.project.docker
        code = tree_digest(self._station.project.stages)
        names = {order.plan.identity: order.plan.image, **order.plan.others}
        if order.plan.code.digest != code:
            raise ClusterError(
                f"{self._station.name}: the stage code here is {code[:16]}, the driver's is "
                f"{order.plan.code.digest[:16]}.",
                "Start the worker again with the driver's version of kiln.",
            )
        for identity, name in names.items():
            if locked_image(docker, name).identity != identity:
                raise ClusterError(
                    f"{self._station.name}: the image {name} is locked as another one than the "
                    "driver's.",
                    "Start the worker again with the driver's version of kiln.",
                )

    def _own_engine(self) -> Engine:
        """An engine of this order alone, so that stopping it stops nothing else."""
        if self._engine is None:
            engine = Engine.find()
            engine.sweep()
            self._engine = engine
        # After it is set: a stop sees the engine, or we see the stop here.
        self._check_stop()
        return self._engine

    def _check_stop(self) -> None:
        if self.stopped.is_set():
            raise CancelledError("Stopped.")

    def _image(self, name: str) -> str:
        station = self._station
        images = Images(
            station.project.docker,
            self._own_engine,
            station.store,
            self._event,
            may_build=station.may_build,
        )
        return images.ensure(name).tag

    def _event(self, event: str, **fields: Any) -> None:
        self._check_stop()
        if event == "stage" and fields["state"] == "finished":
            self._ran[fields["id"]] = (fields["seconds"], fields["peak_rss"])
        if event == "stage" and fields["state"] == "progress":
            now = time.monotonic()
            if now - self._told < _PROGRESS:
                return
            self._told = now
        if event in ("stage", "image", "note"):
            with contextlib.suppress(RuntimeError):  # the worker's loop has ended
                self._tell(self.key, event, fields)
