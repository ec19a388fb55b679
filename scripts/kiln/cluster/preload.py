"""Make a worker that Dask started one of kiln's: ``dask worker --preload kiln.cluster.preload``.

Programs that start workers themselves (dask-jobqueue, the operator for Kubernetes) take such an
option. Dask's own options say how many models at a time: threads, and memory.
"""

from __future__ import annotations

import sys
from typing import Any

from distributed import Worker

from kiln.cluster.standing import MEMORY
from kiln.cluster.worker import KilnPlugin, Offer, station_of
from kiln.core.errors import KilnError
from kiln.core.plain_text import plain
from kiln.project.folders import Project


async def dask_setup(worker: Worker) -> None:
    """Check this machine and declare what it can do; end the worker if it cannot do anything.

    Dask would only log an exception, and keep a worker that gets no work.
    """
    memory = worker.memory_manager.memory_limit
    threads = worker.state.nthreads
    models = threads if memory is None else max(1, min(threads, memory // MEMORY))
    try:
        station = station_of(Project.find(), Offer(str(worker.name), models=models), _say)
    except KilnError as error:
        print(f"kiln: {plain(error.message)}\n      {plain(error.remedy)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    await worker.plugin_add(KilnPlugin(station), catch_errors=False)


def _say(event: str, **fields: Any) -> None:
    if event == "note":
        print(f"kiln: {plain(str(fields['message']))}", file=sys.stderr, flush=True)
