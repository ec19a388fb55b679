"""A scheduler of Dask's and workers with toy containers, as processes on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patience import wait_until
from places import ROOT
from toy_stages import make_toy

from kiln.project.folders import Project
from shared.dask_parts import SETTINGS, certificates, free_port, listens


@dataclass
class Ended:
    """How a driver ended."""

    code: int
    events: list[dict[str, Any]]
    seconds: float

    def said(self) -> str:
        return json.dumps(self.events)


@dataclass
class ToyCluster:
    """One project, one store, a scheduler and its workers."""

    root: Path
    project: Project
    port: int
    certificates: dict[str, str]
    scheduler: subprocess.Popen[bytes] | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{'tls' if self.certificates else 'tcp'}://127.0.0.1:{self.port}"

    def tls(self) -> dict[str, str]:
        """The certificates by the names of Dask's configuration."""
        names = {name.removeprefix(SETTINGS): path for name, path in self.certificates.items()}
        return {
            name.lower().replace("__", ".").replace("_", "-"): path for name, path in names.items()
        }

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join(str(ROOT / name) for name in ("scripts", "docker", "tests/helpers"))
        return {
            **os.environ,
            **self.certificates,
            "PYTHONPATH": path,
            "KILN_PROJECT": str(self.project.root),
            "KILN_STORE": str(self.root / "store"),
            **more,
        }

    def _started(self, name: str, *command: str, **more: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command],
                env=self.environment(**more),
                stdout=log,
                stderr=log,
                cwd=self.root,
            )

    def start_scheduler(self) -> None:
        self.scheduler = self._started(
            "scheduler", "-m", "dask", "scheduler", "--host", self.url.rpartition(":")[0],
            "--port", str(self.port), "--dashboard-address", "127.0.0.1:0",
        )  # fmt: skip
        wait_until(lambda: listens(self.port))

    def start_worker(self, name: str, **more: str) -> None:
        self.workers[name] = self._started(name, "-m", "toy_worker", self.url, name, **more)

    def start_dask_worker(self, name: str) -> None:
        """A worker that Dask's own command starts."""
        self.workers[name] = self._started(
            name, "-m", "dask", "worker", self.url, "--name", name, "--no-nanny", "--nthreads", "1",
            "--no-dashboard", "--local-directory", str(self.root), "--preload", "toy_preload",
        )  # fmt: skip

    def ready(self, name: str) -> None:
        """Wait until a worker has registered."""
        log = self.root / f"{name}.log"
        wait_until(lambda: "'scheduler'" in log.read_text() or self.workers[name].poll())

    def driver(self, dist: Path, *variants: str, **more: str) -> subprocess.Popen[str]:
        wanted = [f"--variant={name}" for name in variants or ("float32",)]
        return subprocess.Popen(
            [
                sys.executable, "-m", "kiln.cli", "build", "--cluster", self.url,
                "--dist", str(dist), "--json", *wanted,
            ],
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
        )  # fmt: skip

    def build(self, dist: Path, *variants: str, **more: str) -> Ended:
        return ended(self.driver(dist, *variants, **more))

    def forget(self) -> None:
        """Empty the store of results: whatever is asked for has to run."""
        for path in (self.root / "store" / "results").glob("*.json"):
            path.unlink()
        (self.project.root / "containers").unlink(missing_ok=True)

    def containers(self) -> list[int]:
        """The "containers" that were started since."""
        try:
            return [int(pid) for pid in (self.project.root / "containers").read_text().split()]
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Containers wait meanwhile."""
        path = self.project.root / "hold"
        path.touch()
        try:
            yield
        finally:
            path.unlink()

    def close(self) -> None:
        for process in (*self.workers.values(), self.scheduler):
            if process is not None:
                process.kill()
                process.wait()


def ended(driver: subprocess.Popen[str]) -> Ended:
    start = time.monotonic()
    said, told = driver.communicate()
    assert "Traceback" not in told + said, told  # nor a log of Dask's
    return Ended(
        driver.returncode,
        [json.loads(line) for line in said.splitlines()],
        time.monotonic() - start,
    )


def lives(pid: int) -> bool:
    """Whether a process runs; one that waits to be buried does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def make_cluster(root: Path, workers: int) -> ToyCluster:
    """A running cluster, encrypted; workers are ``w1``, ``w2``, …"""
    project, _ = make_toy(root / "project")
    cluster = ToyCluster(root, project, free_port(), certificates(root))
    cluster.start_scheduler()
    names = [f"w{number + 1}" for number in range(workers)]
    for name in names:
        cluster.start_worker(name)
    for name in names:
        cluster.ready(name)
    return cluster
