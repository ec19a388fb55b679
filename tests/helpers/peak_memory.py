"""How much memory this very process has used since it was started.

``ru_maxrss`` will not do: a process that was forked off a large one begins with that one's peak.
"""

from __future__ import annotations

from pathlib import Path


def peak_memory() -> int:
    """The largest resident memory of this process, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no VmHWM in /proc/self/status")
