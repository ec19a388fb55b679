"""Define bounds and outcome of one container as plain data, independent of any engine's client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kiln.core.errors import KilnError

if TYPE_CHECKING:
    from kiln.recipes.recipe import Recipe


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
