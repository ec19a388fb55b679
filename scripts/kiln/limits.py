"""Bounds and outcome of one container: plain data, free of any engine's client library."""

from __future__ import annotations

from dataclasses import dataclass, field

#: User and group that stages run as where the driver itself is root.
STAGE_UID = 1000


@dataclass(frozen=True)
class Limits:
    """Bounds of a container: memory in bytes, number of processes, wall time in seconds."""

    memory: int = 8 << 30
    pids: int = 1024
    timeout: float = 3600.0
    tmp: int = 4 << 30


@dataclass(frozen=True)
class Outcome:
    """How a container ended."""

    exit_code: int
    out_of_memory: bool
    timed_out: bool
    log: str = field(repr=False)
