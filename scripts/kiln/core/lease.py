"""Track who owns a temporary file or folder, and whether that process still lives.

A process killed with SIGKILL cleans nothing up. So all its temporary names contain an *owner tag*,
from which any later process can tell that they are abandoned.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import time
from pathlib import Path

FOREIGN_AGE = 24 * 3600.0
"""Seconds after which an untouched thing of an unknown owner (another namespace, before the last
boot) counts as abandoned; far longer than any stage may run."""

_TAGGED = re.compile(r"(?:^|\.)(\d+)-(\d+)-([0-9a-f]{8})\.[0-9a-f]{8}(?:\.[a-z]+)?$")


def boot_id() -> str:
    """Return the kernel's id of this boot, or an empty string where there is none."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def owner_tag() -> str:
    """This process as ``<pid>-<start time>-<scope>``, fit for a file name.

    The start time (clock ticks since boot, field 22 of ``/proc/<pid>/stat``; 0 where /proc is
    absent) tells it from a later process with the same pid; the scope (8 hex digits over boot
    and pid namespace) tells whether pids can be compared at all.
    """
    pid = os.getpid()
    return f"{pid}-{_start_time(pid) or 0}-{_scope()}"


def tagged_name() -> str:
    """A fresh file name that carries our tag: ``<tag>.<8 random hex digits>``.

    Text before it (ending in a dot) and an extension after it may be added.
    """
    return f"{owner_tag()}.{secrets.token_hex(4)}"


def is_ours(name: str) -> bool:
    """Whether ``name`` has a tag whose owner can be looked up from here (same boot)."""
    match = _TAGGED.search(name)
    return match is not None and match[3] == _scope()


def is_abandoned(path: Path) -> bool:
    """Whether the owner in ``path``'s name (:func:`tagged_name`) is gone; False for other names."""
    match = _TAGGED.search(path.name)
    if match is None:
        return False
    pid, started, scope = int(match[1]), int(match[2]), match[3]
    if scope != _scope():
        try:
            return time.time() - path.lstat().st_mtime > FOREIGN_AGE
        except OSError:
            return False
    return not _lives(pid, started)


def _lives(pid: int, started: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        pass  # it is alive, as another user
    now = _start_time(pid)
    return now is None or started == 0 or now == started


def _start_time(pid: int) -> int | None:
    text = _read(f"/proc/{pid}/stat")
    # The second field is the command in parentheses, and may itself contain spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    try:
        state, ticks = fields[0], int(fields[19])
    except (IndexError, ValueError):
        return None
    # A zombie holds nothing any more: return a start time that no tag has.
    return -1 if state in {"Z", "X"} else ticks


@functools.cache
def _scope() -> str:
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{boot_id()}\n{namespace}".encode()).hexdigest()[:8]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
