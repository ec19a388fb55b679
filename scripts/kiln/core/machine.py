"""Describe this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_name() -> str:
    """Return the processor's name from the kernel, or its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return " ".join(value.split())
    return platform.machine()


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0))


def memory() -> int:
    """Return the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def room_for(each: int) -> int:
    """Return how many tasks this machine can run at a time: at least one.

    Args:
        each: the memory that one of them needs, in bytes; a processor it needs, too.
    """
    return max(1, min(processors(), memory() // each))
