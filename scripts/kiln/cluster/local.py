"""A cluster on this machine alone: a scheduler in this process, and workers that it starts.

The workers are those of ``kiln worker``, so this is the whole way, not an imitation. Connections
are encrypted with a certificate of this run: other users of the machine reach its loopback
interface, too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import LocalCluster
from distributed.security import Security

from kiln.core.errors import ClusterError
from kiln.core.store import Store

#: Seconds that workers get to remove their containers.
_STOP_PATIENCE = 4.0

#: Bytes of a worker's log that are told when it has failed.
_SHOWN = 2_000


@dataclass(frozen=True)
class LocalWorkers:
    """A running scheduler and its workers.

    Args:
        url: the scheduler's address.
        logs: where each worker's standard error goes.
    """

    url: str
    security: Any
    processes: tuple[subprocess.Popen[bytes], ...]
    logs: Path

    def why_none_lives(self) -> str:
        """Return the end of a log if all workers have ended; "" while one lives."""
        if any(process.poll() is None for process in self.processes):
            return ""
        ends = map(_end_of, sorted(self.logs.glob("*.log")))
        return next(filter(None, ends), "no reason given")


def _end_of(log: Path) -> str:
    """Return the last words of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _SHOWN))
        return file.read(_SHOWN).decode("utf-8", "replace").strip()


@contextlib.contextmanager
def local_workers(count: int, store: Store) -> Iterator[LocalWorkers]:
    """Start workers, each for one model at a time, with the same store; stop them at the end.

    Raises:
        ClusterError: the scheduler cannot listen.
    """
    security = Security.temporary()
    with store.scratch() as scratch, contextlib.ExitStack() as stack:
        try:
            scheduler = stack.enter_context(
                LocalCluster(
                    n_workers=0,
                    protocol="tls://",
                    host="127.0.0.1",
                    security=security,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=50,
                )
            )
        except (OSError, RuntimeError) as error:
            raise ClusterError(
                f"No scheduler can be started on this machine: {error}.",
                "Build without --cluster.",
            ) from error
        environment = {**os.environ, **_certificates(security, scratch)}
        environment["KILN_STORE"] = str(store.root)
        url = scheduler.scheduler_address
        processes = []
        for number in range(count):
            command = [
                sys.executable, "-m", "kiln.cli", "worker", "--scheduler", url,
                "--name", f"local-{number + 1}", "--models-at-a-time", "1", "--build-images",
            ]  # fmt: skip
            with (scratch / f"{number + 1}.log").open("wb") as log:
                # A session of its own: Ctrl-C reaches the driver, which stops the workers.
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
            processes.append(process)
        stack.callback(_stop, processes)
        yield LocalWorkers(url, security, tuple(processes), scratch)


def _certificates(security: Any, folder: Path) -> dict[str, str]:
    """Write a run's certificate where only this user reads it; return Dask's settings for it."""
    values = {
        "CA_FILE": security.tls_ca_file,
        "WORKER__CERT": security.tls_worker_cert,
        "WORKER__KEY": security.tls_worker_key,
    }
    settings = {}
    for name, text in values.items():
        path = folder / f"{name.lower()}.pem"
        path.touch(0o600)
        path.write_text(text)
        settings[f"DASK_DISTRIBUTED__COMM__TLS__{name}"] = str(path)
    return settings


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
