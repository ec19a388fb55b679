"""Kill parts of a cluster at random moments, and look at what is left (``make cluster-storm``).

Each run builds a sample's float32 file in real containers, on a scheduler and two workers of this
machine, over TLS. At a random moment a worker, the scheduler or the driver is killed with SIGKILL.
What has died is started again, and so is the build, until it succeeds. Then the file must have the
bytes of an undisturbed build on one machine, no result in the store may lack a file, no container
may be left, and no scratch.

    usage: python -m proofs.cluster_storm [--runs N] [--seed N]

Seconds are printed beside those of the first, undisturbed run: one model's work may be lost, and
the time in which the dead start again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kiln.core.digest import sha256_file
from kiln.core.lease import is_abandoned
from kiln.core.store import Store
from kiln.running.engine import OWNER_LABEL, Engine
from shared import program
from shared.dask_parts import certificates, free_port, listens

SAMPLE = "ssd_mobilenet_v2_oidv4"
VICTIMS = ("worker", "scheduler", "driver")

#: Seconds for a whole build on a slow machine, and for a process to be ready.
_BUILD, _READY = 600.0, 120.0


class Cluster:
    """A scheduler and two workers, started again when they die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.port = free_port()
        self.url = f"tls://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ, **certificates(folder), "KILN_STORE": str(self.store)
        }  # fmt: skip
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def mend(self) -> None:
        """Start what does not run."""
        if not self._lives("scheduler"):
            self._start(
                "scheduler", "-m", "dask", "scheduler", "--host", "tls://127.0.0.1",
                "--port", str(self.port), "--dashboard-address", "127.0.0.1:0",
            )  # fmt: skip
            _until(lambda: listens(self.port), "the scheduler listens")
        for name in ("worker-1", "worker-2"):
            if not self._lives(name):
                self._start(
                    name, "-m", "kiln.cli", "worker", "--scheduler", self.url, "--name", name,
                    "--models-at-a-time", "1", "--json",
                )  # fmt: skip
                log = self.folder / f"{name}.log"
                begun = log.stat().st_size

                def ready(log: Path = log, begun: int = begun) -> bool:
                    return b'"worker"' in log.read_bytes()[begun:]

                _until(ready, f"{name} is ready")

    def build(self, dist: Path) -> subprocess.Popen[bytes]:
        """Start a driver."""
        return subprocess.Popen(
            [
                sys.executable, "-m", "kiln.cli", "build", SAMPLE, "--variant", "float32",
                "--cluster", self.url, "--dist", str(dist), "--json",
            ],
            env=self.environment,
            stdout=(self.folder / "driver.log").open("ab"),
        )  # fmt: skip

    def kill(self, name: str) -> None:
        """End one with SIGKILL."""
        self.processes[name].kill()
        self.processes[name].wait()

    def close(self) -> None:
        """End all."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def _lives(self, name: str) -> bool:
        return name in self.processes and self.processes[name].poll() is None

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command], env=self.environment, stdout=log, stderr=log
            )


def _until(done: Any, what: str) -> None:
    end = time.monotonic() + _READY
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"cluster-storm: not within {_READY:.0f} s: {what}")
        time.sleep(0.1)


def run(cluster: Cluster, chance: random.Random, span: float, victim: str) -> dict[str, Any]:
    """Build with one kill; return what was seen.

    Args:
        span: seconds of an undisturbed build; the kill is somewhere in it.
        victim: see :data:`VICTIMS`; "" kills none.
    """
    dist = cluster.folder / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for result in (cluster.store / "results").glob("*.json"):
        result.unlink()
    cluster.mend()
    start = time.monotonic()
    driver = cluster.build(dist)
    moment = chance.uniform(0.5, max(1.0, span))
    if victim:
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(moment)
        name = chance.choice(["worker-1", "worker-2"]) if victim == "worker" else victim
        if name == "driver":
            driver.kill()
        else:
            cluster.kill(name)
    codes = [driver.wait(_BUILD)]
    while codes[-1] != 0 and len(codes) < 4:
        cluster.mend()
        codes.append(cluster.build(dist).wait(_BUILD))
    seconds = time.monotonic() - start
    (file,) = (dist / SAMPLE).glob("*_float32.tflite")
    return {
        "victim": victim or "none",
        "after": round(moment, 1) if victim else 0.0,
        "codes": codes,
        "seconds": round(seconds, 1),
        "sha256": sha256_file(file),
        "faults": [*_halves(cluster.store), *_leftovers(cluster)],
    }


def _halves(store: Path) -> Iterator[str]:
    """Yield results that lack a file, read by nothing of kiln's."""
    for path in sorted((store / "results").glob("*.json")):
        for name, entry in json.loads(path.read_bytes())["files"].items():
            blob = store / "blobs" / "sha256" / entry["sha256"][:2] / entry["sha256"]
            if not blob.is_file() or sha256_file(blob) != entry["sha256"]:
                yield f"{path.name} lacks {name}"


def _leftovers(cluster: Cluster) -> Iterator[str]:
    """Yield containers and scratch of the dead that a next run would not remove."""
    engine = Engine.find()
    engine.sweep()
    Store(cluster.store).sweep()
    found = engine.client.containers.list(
        all=True, filters={"label": OWNER_LABEL}, ignore_removed=True
    )
    for item in found:
        if is_abandoned(Path(item.labels[OWNER_LABEL])):
            yield f"container {item.name}"
    for path in (cluster.store / "tmp").iterdir():
        if is_abandoned(path):
            yield f"scratch {path.name}"


def main() -> int:
    """Run the series; return 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser("cluster-storm", description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "big")
    print(json.dumps({"seed": seed}), flush=True)
    chance, failed = random.Random(seed), 0  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="kiln-cluster-storm-") as place:
        Path(place).chmod(0o755)
        cluster = Cluster(Path(place))
        try:
            calm = run(cluster, chance, 0.0, "")
            print(json.dumps(calm), flush=True)
            for number in range(arguments.runs):
                seen = run(cluster, chance, calm["seconds"], VICTIMS[number % len(VICTIMS)])
                right = seen["sha256"] == calm["sha256"] and not seen["faults"]
                # One model's work, and the time in which the dead start again.
                right = right and seen["codes"][-1] == 0
                seen["right"] = right
                failed += not right
                print(json.dumps(seen), flush=True)
        finally:
            cluster.close()
    print(json.dumps({"runs": arguments.runs, "failed": failed}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    program.run_function(main, "cluster-storm")
