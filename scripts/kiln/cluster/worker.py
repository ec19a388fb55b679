"""A worker of a cluster: Dask's own, with a plugin that runs kiln's orders."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker

from kiln.building.doctor import examine
from kiln.cluster.address import ClusterAddress
from kiln.cluster.security import quiet_dask, security_for
from kiln.cluster.standing import FIELD, MEMORY, Standing
from kiln.cluster.station import Station
from kiln.cluster.transfer import transfers
from kiln.core import machine
from kiln.core.errors import CancelledError, ClusterError, ImageMismatchError, KilnError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.definition import load as load_images
from kiln.images.lock import locked_image
from kiln.project.folders import Project
from kiln.running.executor_protocol import OnEvent

#: The topic of all orders' events. One topic, because a scheduler keeps topics for ever.
TOPIC = "kiln"

#: Seconds that a worker waits for its scheduler to answer.
_PATIENCE = 60

#: Seconds that a stopped worker's threads get to remove what they made.
_STOP_PATIENCE = 3

_NAME = "kiln"


@dataclass(frozen=True)
class Offer:
    """What a machine gives to a cluster.

    Args:
        name: the worker's; by default host and process.
        memory: in bytes; None: the machine's.
        models: at a time; None: what memory and processors allow.
        may_build: whether to build an image that is not available otherwise.
    """

    name: str | None = None
    memory: int | None = None
    models: int | None = None
    may_build: bool = False

    @property
    def slots(self) -> int:
        """Models at a time."""
        if self.models is not None:
            return self.models
        memory = self.memory if self.memory is not None else machine.memory()
        return max(1, min(machine.processors(), memory // MEMORY))


def run_order(text: str) -> str:
    """Run an order on the worker that calls this: a scheduler's task, imported by its name."""
    worker = get_worker()
    plugin = worker.plugins[_NAME]
    assert isinstance(plugin, KilnPlugin)
    return plugin.run(text)


class KilnPlugin(WorkerPlugin):
    """Declares a worker's standing, runs orders, and stops those that nobody waits for."""

    name = _NAME

    def __init__(self, station: Station) -> None:
        self._station = station
        self._worker: Worker | None = None

    def setup(self, worker: Worker) -> None:
        """Declare what this worker is; it has not registered yet."""
        self._worker = worker
        declared = self._station.standing.resources()
        worker.state.total_resources.update(declared)
        worker.state.available_resources.update(declared)
        worker.startup_information[FIELD] = lambda _: self._station.standing.as_data()

    def teardown(self, worker: Worker) -> None:
        """Stop all containers: the worker is closing."""
        self._station.close()

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Stop an order as soon as no driver waits for it any more."""
        if start in ("executing", "long-running") and finish == "released":
            self._station.stop(str(key))

    def run(self, text: str) -> str:
        """Run an order."""
        return self._station.run(text, self._tell)

    def _tell(self, key: str, event: str, fields: Mapping[str, Any]) -> None:
        assert self._worker is not None
        said = {"key": key, "by": self._station.name, "event": event, "fields": dict(fields)}
        self._worker.log_event(TOPIC, said)


def station_of(project: Project, offer: Offer, on_event: OnEvent) -> Station:
    """Check this machine, and provide its images.

    Raises:
        KilnError: no engine answers, the disk is full, or no image can be had.
    """
    for item in examine(project, worker=True):
        if item.error is not None:
            raise item.error
        if item.state == "note":
            on_event("note", message=f"{item.what}: {item.detail}")
    store = Store(Store.default_root())
    store.sweep()
    ways = transfers(store, lambda text: on_event("note", message=text))
    held = _images(project, store, offer, on_event)
    standing = Standing.here(project.stages, held, ways, offer.slots)
    name = offer.name or f"{socket.gethostname()}-{os.getpid()}"
    return Station(project, store, standing, ways, name, may_build=offer.may_build)


def _images(project: Project, store: Store, offer: Offer, on_event: OnEvent) -> dict[str, str]:
    """Provide the images that stages run in, as far as they can be had: name -> identity.

    Raises:
        ImageMismatchError: none can be had.
    """
    known = load_images(project.docker)
    parents = {definition.parent for definition in known.values()}
    images = Images.on_any_engine(project.docker, store, on_event, may_build=offer.may_build)
    held, missing = {}, []
    for name in known:
        if name in parents:
            continue
        locked = locked_image(project.docker, name)
        if images.bring(locked) or (offer.may_build and images.ensure(name)):
            held[name] = locked.identity
        else:
            missing.append(name)
    if not held:
        raise ImageMismatchError(
            "This machine's engine holds none of kiln's images, and a worker does not build them.",
            "Load them (`kiln images load`), set KILN_IMAGE_REGISTRY, or start the worker with "
            "--build-images.",
        )
    if missing:
        on_event(
            "note",
            message=f"no image {', '.join(missing)} here: models that need one go to other workers",
        )
    return held


def serve(address: ClusterAddress, offer: Offer, on_event: OnEvent) -> None:
    """Work for a scheduler until it ends, or this process is told to.

    Raises:
        ClusterError: the scheduler does not answer, or has gone.
        CancelledError: SIGINT or SIGTERM.
        KilnError: see :func:`station_of`.
    """
    quiet_dask()
    security = security_for(address, "worker")
    station = station_of(Project.find(), offer, on_event)
    with station.store.scratch() as scratch:
        asyncio.run(_work(address, security, station, scratch, on_event))


async def _work(
    address: ClusterAddress, security: Any, station: Station, scratch: Path, on_event: OnEvent
) -> None:
    stopped: list[int] = []
    host = address.host if address.is_loopback else None
    worker = Worker(
        address.url,
        nthreads=station.standing.slots,
        name=station.name,
        plugins=(KilnPlugin(station),),
        security=security,
        host=host,
        dashboard_address="127.0.0.1:0",
        local_directory=str(scratch),
        memory_limit=0,  # stages have containers of their own, which are bounded
        death_timeout=_PATIENCE,
    )

    def stop(number: int) -> None:
        stopped.append(number)
        station.close()
        closing.append(asyncio.ensure_future(worker.close(timeout=_STOP_PATIENCE)))

    closing: list[Any] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await worker
    except (TimeoutError, OSError, ValueError, RuntimeError) as error:
        with contextlib.suppress(Exception):
            await worker.close()
        raise _unanswered(address, error) from error
    on_event(
        "worker",
        name=station.name,
        scheduler=address.url,
        models=station.standing.slots,
        images=sorted(station.standing.images),
    )
    await worker.finished()
    await asyncio.gather(*closing, return_exceptions=True)
    if stopped:
        raise CancelledError("Stopped.", "Unfinished models go to other workers.")
    raise ClusterError(
        f"The scheduler at {address} has gone, or told this worker to end.",
        "Start the worker again when the scheduler runs.",
    )


def _unanswered(address: ClusterAddress, error: BaseException) -> KilnError:
    cause = str(error.__cause__ or error).strip().rstrip(".")[:300]
    return ClusterError(
        f"The scheduler at {address} does not answer: {cause or type(error).__name__}.",
        "Check that it runs, that this machine reaches it, and that both use the same "
        "certificates.",
    )
