"""A worker of `kiln worker` whose containers are plain processes.

    python -m toy_worker SCHEDULER NAME

Dask, the plugin, the station, the runner and the store are real. Where the engine would start a
container, the stage runner starts in a process of its own; its id is appended to the file
``containers`` in the project, and while a file ``hold`` is there, it waits. A file ``break`` takes
the engine away from one order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from toy_container import Container, Doorman
from toy_project import DEVICE, SEALED

from kiln.cli.program import run
from kiln.cluster import station, worker
from kiln.cluster.address import ClusterAddress
from kiln.cluster.standing import Standing
from kiln.cluster.station import Station
from kiln.cluster.transfer import transfers
from kiln.core.errors import CancelledError, EngineUnavailableError
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.running.limits import Outcome

IMAGES = {"odapi": SEALED.identity, "device": DEVICE.identity}


#: Notes a "container", waits until it may begin, and runs the stages.
_HELD = """
import os, pathlib, runpy, sys, time
root = pathlib.Path(sys.argv[1])
with (root / "containers").open("a") as notes:
    notes.write(f"{os.getpid()}\\n")
while (root / "hold").exists():
    time.sleep(0.05)
sys.path.insert(0, os.getcwd())
sys.argv[1:] = []
runpy.run_module("stages", run_name="__main__")
"""


class ToyEngine(Doorman):
    """Runs "containers" of this machine, and can stop them."""

    def __init__(self, project: Project) -> None:
        super().__init__(self._play)
        self._project = project
        self._stopped = False
        self._running: list[subprocess.Popen[bytes]] = []

    def sweep(self) -> int:
        return 0

    def stop_all(self) -> None:
        self._stopped = True
        for process in self._running:
            process.kill()

    def _play(self, container: Container) -> Outcome:
        places = {"KILN_IN": str(container.inputs), "KILN_OUT": str(container.outputs)}
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", _HELD, str(self._project.root)],
            cwd=self._project.docker,
            env={**os.environ, **places, "KILN_METADATA_PYTHON": sys.executable},
            stdout=subprocess.PIPE,
        )
        self._running.append(process)
        said, _ = process.communicate()
        if self._stopped:
            raise CancelledError("Stopped.")
        container.say(said)
        return Outcome(process.returncode, False, False, "")


class ToyImages:
    """An engine that holds every image."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def ensure(self, name: str) -> Any:
        return SEALED if name == "odapi" else DEVICE


def toy_station(project: Project, offer: worker.Offer, on_event: Any) -> Station:
    store = Store(Store.default_root())
    ways = transfers(store, lambda text: on_event("note", message=text))
    standing = Standing.here(project.stages, IMAGES, ways, 1)
    return Station(project, store, standing, ways, offer.name or "toy")


def found_engine(project: Project) -> ToyEngine:
    """An engine; whoever finds the file ``break`` first has none."""
    try:
        (project.root / "break").unlink()
    except FileNotFoundError:
        return ToyEngine(project)
    raise EngineUnavailableError("No engine here.", "Start one.")


def put_toys_in_place() -> None:
    """Let this process's stations have toy engines and images."""
    project = Project.find()
    patched: Any = station
    patched.Engine.find = lambda: found_engine(project)
    patched.Images = ToyImages
    # `tag` of a locked image; nobody looks at it here.
    type(SEALED).tag = "toy:1"  # type: ignore[attr-defined]


def main() -> None:
    scheduler, name = sys.argv[1:]
    put_toys_in_place()
    worker.station_of = toy_station
    run(
        lambda: worker.serve(
            ClusterAddress(scheduler),
            worker.Offer(name),
            lambda *_, **fields: print(fields, flush=True),
        ),
        "toy-worker",
    )


if __name__ == "__main__":
    main()
