"""What a cluster costs besides the work (``make cluster-bench``).

Recorded durations of plans are replayed: workers sleep in the place of stages. Scheduler, workers,
orders, events, the store and the driver's side are real; there are no containers.

    usage: python -m benchmarks.cluster [--workers N...] [--plans N] [--scale F] [--json]

With ``--scale`` below 1 plans are shorter than real ones, and the same overhead weighs more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.replay_worker import seconds_of
from kiln.cluster.address import ClusterAddress
from kiln.cluster.driver import Cluster
from kiln.cluster.order import Order
from kiln.core.digest import sha256_bytes
from kiln.core.output import table
from kiln.core.store import Store
from kiln.images.lock import locked_image
from kiln.project.closures import StageCode
from kiln.project.folders import Project
from kiln.recipes.contents import Contents
from kiln.recipes.plan import Plan, make_plan
from kiln.recipes.recipe import load
from kiln.running.limits import Limits
from shared import program
from shared.dask_parts import free_port, listens

SAMPLE = "ssd_mobilenet_v2_oidv4"

#: Workers in one process; more would wait for each other's Python.
_TOGETHER = 32

_PATIENCE = 120.0


def plans(project: Project, count: int) -> list[Plan]:
    """Return plans of a sample's form and size with keys of their own."""
    recipe = load(project.models / "samples" / SAMPLE / "recipe.toml")
    image = locked_image(project.docker, recipe.image).identity
    contents = Contents(
        inputs={"weights": "a" * 64},
        config="b" * 64,
        label_map="c" * 64,
        images={f"{number}.jpg": "d" * 64 for number in range(24)},
    )
    return [
        make_plan(recipe, contents, ("float32",), image=image, code=StageCode(digest))
        for digest in (sha256_bytes(b"%d" % number) for number in range(count))
    ]


def measure(project: Project, count: int, wanted: list[Plan], scale: float) -> dict[str, Any]:
    """Run all plans on so many workers; return the figures."""
    with tempfile.TemporaryDirectory(prefix="kiln-cluster-bench-") as place:
        store = Store(Path(place) / "store")
        port = free_port()
        url = f"tcp://127.0.0.1:{port}"
        environment = {**os.environ, "KILN_STORE": str(store.root)}
        processes = [
            subprocess.Popen(
                [
                    sys.executable, "-m", "dask", "scheduler", "--host", "tcp://127.0.0.1",
                    "--port", str(port), "--dashboard-address", "127.0.0.1:0",
                ],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        ]  # fmt: skip
        try:
            _wait_for_port(port)
            for number in range(0, count, _TOGETHER):
                together = str(min(_TOGETHER, count - number))
                processes.append(
                    subprocess.Popen(
                        [
                            sys.executable, "-m", "benchmarks.replay_worker", url, str(number),
                            together, str(scale),
                        ],
                        env=environment, stdout=subprocess.DEVNULL,
                    )
                )  # fmt: skip
            return _run(project, store, ClusterAddress(url), count, wanted, scale)
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()


def _run(
    project: Project,
    store: Store,
    address: ClusterAddress,
    count: int,
    wanted: list[Plan],
    scale: float,
) -> dict[str, Any]:
    slept: list[float] = []
    with Cluster(address, project, store, print) as cluster:
        until = time.monotonic() + _PATIENCE
        while len(cluster.client().scheduler_info(n_workers=-1)["workers"]) < count:
            if time.monotonic() > until:
                raise SystemExit("cluster-bench: the workers do not start")
            time.sleep(0.2)

        def run(plan: Plan) -> None:
            executor = cluster.executor(lambda *_, **__: None)
            results = executor.run(plan, Limits(), str, files=plan.ids(), facts=plan.ids())
            assert results.keys() == set(plan.ids())

        start, used = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(cluster.most) as pool:
            list(pool.map(run, wanted))
        wall, driver = time.monotonic() - start, time.process_time() - used
        for plan in wanted:
            slept.append(seconds_of(_key(cluster, plan)) * scale)
    ideal = sum(slept) / count
    return {
        "workers": count,
        "plans": len(wanted),
        "seconds a plan": round(sum(slept) / len(wanted), 3),
        "seconds": round(wall, 2),
        "without overhead": round(ideal, 2),
        "efficiency": round(ideal / wall, 3),
        "overhead a plan, ms": round((wall - ideal) / len(wanted) * 1000, 2),
        "driver's processor time a plan, ms": round(driver / len(wanted) * 1000, 2),
    }


def _key(cluster: Cluster, plan: Plan) -> str:
    ids = tuple(plan.ids())
    return Order(plan, Limits(), ids, ids, cluster.way.name).key


def _wait_for_port(port: int) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if listens(port):
            return
        time.sleep(0.1)
    raise SystemExit("cluster-bench: the scheduler does not start")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("cluster-bench", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--plans", type=int, default=2000)
    parser.add_argument("--scale", type=float, default=1.0, help="of recorded durations [1]")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args()
    project = Project.find()
    wanted = plans(project, arguments.plans)
    rows = []
    for count in arguments.workers:
        row = measure(project, count, wanted, arguments.scale)
        rows.append(row)
        if arguments.json:
            print(json.dumps(row), flush=True)
    if not arguments.json:
        print(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))


if __name__ == "__main__":
    program.run_function(main, "cluster-bench")
