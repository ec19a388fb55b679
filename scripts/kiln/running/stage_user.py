"""Choose the user id of stages where the driver is root: one that is unused on this machine."""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
from collections.abc import Iterable
from pathlib import Path

#: Above all usual ids: people and services (up to 60,000), subordinate ids (from 100,000),
#: systemd's containers (up to 1,879,048,191); and below 2**31, where many systems' ids end.
PREFERRED = 2_000_000_000

_SUBORDINATE = ("/etc/subuid", "/etc/subgid")


def stage_user(*, rootless: bool) -> tuple[int, int]:
    """Return user and group ids of a stage's process, inside the container.

    A rootless engine maps the container's root to the user who runs it, and other ids to ids that
    cannot write that user's folders. Under any other engine an ordinary user's stages run as that
    user, who has to read what they write; root's run as an unused id, because the first user of the
    machine (1000, mostly) could write into the memory of processes with the same id.
    """
    if rootless:
        return 0, 0
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    free = free_id()
    return free, free


def owner_outside(*, rootless: bool) -> int:
    """Return the user id that a stage's files have outside the container."""
    return os.getuid() if rootless else stage_user(rootless=False)[0]


@functools.cache
def free_id() -> int:
    """Find an id that is not used by a user, a group or a container mapping."""
    given = [span for name in _SUBORDINATE for span in subordinate_ranges(_lines(Path(name)))]
    mapped = _mapped_ids()
    candidate = PREFERRED if PREFERRED in mapped else mapped.stop - 2  # the last one means "none"
    while _is_known(candidate) or any(candidate in span for span in given):
        candidate -= 1
    return candidate


def _is_known(number: int) -> bool:
    for look_up in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            look_up(number)
            return True
    return False


def subordinate_ranges(lines: Iterable[str]) -> list[range]:
    """Parse the ranges of a file like ``/etc/subuid``; skip other lines.

    >>> subordinate_ranges(["me:100000:65536", "# a comment"])
    [range(100000, 165536)]
    """
    found = []
    for line in lines:
        _, _, numbers = line.strip().partition(":")
        first, _, count = numbers.partition(":")
        if first.isdecimal() and count.isdecimal():
            found.append(range(int(first), int(first) + int(count)))
    return found


def _mapped_ids() -> range:
    """Return the last range of mapped ids: inside a container there may be few of them."""
    spans = [
        range(int(inside), int(inside) + int(count))
        for inside, _, count in (line.split() for line in _lines(Path("/proc/self/uid_map")))
    ]
    return max(spans, key=lambda span: span.stop, default=range(1 << 31))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
