"""Workers of a cluster that sleep in the place of stages (:mod:`benchmarks.cluster`).

    usage: python -m benchmarks.replay_worker SCHEDULER NUMBER COUNT SCALE

Each is one of Dask's, with kiln's plugin; many of them share a process. What they "make" goes to
the store as a stage's results do.
"""

from __future__ import annotations

import asyncio
import sys
import time

from distributed import Worker

from kiln.cluster.address import ClusterAddress
from kiln.cluster.order import Answer, Order
from kiln.cluster.security import quiet_dask, security_for
from kiln.cluster.standing import Standing
from kiln.cluster.station import Station, Tell
from kiln.cluster.transfer import transfers
from kiln.cluster.worker import KilnPlugin
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.images.lock import read_lock
from kiln.project.folders import Project

#: Seconds of whole plans (float32 alone to five variants), as builds of the samples recorded them.
RECORDED = (18.4, 23.5, 24.9, 27.3, 33.1, 41.0)


def seconds_of(key: str) -> float:
    """Return the recorded duration that stands for a task."""
    return RECORDED[int(key[-8:], 16) % len(RECORDED)]


class ReplayStation(Station):
    """Sleeps, and stores results."""

    scale = 1.0

    def run(self, text: str, tell: Tell) -> str:
        """Replay an order."""
        order = Order.parse(text)
        steps = order.plan.steps
        tell(order.key, "stage", {"id": steps[0].id, "state": "started"})
        time.sleep(seconds_of(order.key) * self.scale)
        data = order.key.encode() * 16
        blob = Blob(self.store.add_bytes(data), len(data))
        files = {"model.tflite": blob}
        for step in steps:
            self.store.put_result(StageResult(step.key, step.stage, files, {}, 1.0, 1))
            said = {"id": step.id, "state": "finished", "seconds": 1.0, "peak_rss": 1}
            tell(order.key, "stage", said)
        made = {step.id: {"model.tflite": blob.sha256} for step in steps}
        return Answer(self.name, made, {step.id: (1.0, 1) for step in steps}).as_text()


async def _work(address: ClusterAddress, number: int, count: int, scale: float) -> None:
    project, store = Project.find(), Store(Store.default_root())
    ways = transfers(store, print)
    images = {name: entry.identity for name, entry in read_lock(project.docker).items()}
    standing = Standing.here(project.stages, images, ways, 1)
    workers = []
    for index in range(count):
        station = ReplayStation(project, store, standing, ways, f"{number}-{index}")
        station.scale = scale
        workers.append(
            Worker(
                address.url,
                nthreads=1,
                name=station.name,
                plugins=(KilnPlugin(station),),
                security=security_for(address, "worker"),
                host=address.host,
                dashboard_address="127.0.0.1:0",
                local_directory=str(store.tmp),
                memory_limit=0,
            )
        )
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


def main() -> None:
    """Work until the scheduler ends."""
    scheduler, number, count, scale = sys.argv[1:]
    quiet_dask()
    asyncio.run(_work(ClusterAddress(scheduler), int(number), int(count), float(scale)))


if __name__ == "__main__":
    main()
