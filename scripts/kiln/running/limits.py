"""Define bounds and outcome of one container as plain data, independent of any engine's client."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kiln.core import machine
from kiln.core.errors import KilnError, UsageError

if TYPE_CHECKING:
    from kiln.recipes.recipe import Recipe


#: Bytes of memory for each process that runs stages. The samples take 1.1 GB, models with a large
#: input more; :class:`Limits` is where a container ends.
PROCESS_MEMORY = 4 << 30

#: Environment variable: how many processes run the stages of a model beside each other.
PROCESSES_VARIABLE = "KILN_PROCESSES"
_MOST_PROCESSES = 64


@dataclass(frozen=True)
class Limits:
    """Bounds of a container: memory in bytes, number of processes, wall time in seconds.

    ``tmp`` is the size of its ``/tmp`` in bytes; ``output`` and ``output_files`` bound what it may
    write to ``/out``: bytes on the disk, and files and folders. (The largest plan of ours writes
    some 0.7 GB in 300 files.)
    """

    memory: int = 8 << 30
    pids: int = 1024
    timeout: float = 3600.0
    tmp: int = 4 << 30
    output: int = 8 << 30
    output_files: int = 20_000


def limits_of(recipe: Recipe) -> Limits:
    """Return the limits of a recipe's containers: its own, else the defaults."""
    default = Limits()
    return Limits(
        memory=recipe.limits.memory or default.memory,
        timeout=recipe.limits.timeout or default.timeout,
    )


def processes_of(limits: Limits, models: int) -> int:
    """Return how many processes a model's stages may have: its share of this machine.

    Args:
        models: how many are at work.

    Raises:
        UsageError: :data:`PROCESSES_VARIABLE` is set to something else than a number.
    """
    said = os.environ.get(PROCESSES_VARIABLE, "")
    if not said:
        share = machine.room_for(PROCESS_MEMORY) // max(1, models)
        return max(1, min(share, limits.memory // PROCESS_MEMORY))
    if not (re.fullmatch("[0-9]{1,2}", said) and 1 <= int(said) <= _MOST_PROCESSES):
        raise UsageError(
            f"{PROCESSES_VARIABLE} is not a number from 1 to {_MOST_PROCESSES}.",
            "Remove it to use what the machine has room for.",
        )
    return int(said)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one container.

    ``refused`` is why kiln stopped it: for its messages, or for its files.
    """

    exit_code: int
    out_of_memory: bool
    timed_out: bool
    log: str = field(repr=False)
    refused: KilnError | None = None
