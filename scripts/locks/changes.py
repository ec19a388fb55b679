"""Compare two versions of a lock; no I/O.

Two formats are supported: pip's (``name==version`` with hashes, several versions of one package
where markers choose) and kiln's list of Debian packages (``name version arch sha256 …``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_HASH = re.compile(r"--hash=(\S+)")
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]*))?")

Pins = Mapping[str, Mapping[str, tuple[str, frozenset[str]]]]
"""Package -> marker (``""`` without one) -> version, and the hashes of its files."""


@dataclass(frozen=True)
class Changes:
    """Differences between two locks, sorted by name.

    Attributes:
        updated: (package, old versions, new versions).
        added: (package, versions); ``removed`` likewise.
        rehashed: packages with the same versions and other files.
    """

    updated: tuple[tuple[str, str, str], ...] = ()
    added: tuple[tuple[str, str], ...] = ()
    removed: tuple[tuple[str, str], ...] = ()
    rehashed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.updated or self.added or self.removed or self.rehashed)


def parse(text: str) -> Pins:
    """Parse a lock of either format; lines that are not packages are skipped.

    >>> parse("six==1.17.0 ; sys_platform == 'linux' \\\\\\n    --hash=sha256:aa")
    {'six': {"sys_platform == 'linux'": ('1.17.0', frozenset({'sha256:aa'}))}}
    >>> parse("bash 5.1-2 amd64 ff 9 debian pool/main/b/bash/bash_5.1-2_amd64.deb")
    {'bash': {'': ('5.1-2', frozenset({'ff'}))}}
    """
    found: dict[str, dict[str, tuple[str, frozenset[str]]]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.partition("#")[0].strip()
        fields = line.split()
        if match := _PIN.match(line):
            marker = (match[3] or "").partition("--hash")[0].strip()
            pinned = match[2], frozenset(_HASH.findall(line))
            found.setdefault(match[1].lower(), {})[marker] = pinned
        elif len(fields) == 7:
            found.setdefault(fields[0], {})[""] = fields[1], frozenset({fields[3]})
    return found


def compare(old: str, new: str) -> Changes:
    """Compare the lock ``new`` with the lock ``old``."""
    before, after = parse(old), parse(new)
    updated, rehashed = [], []
    for name in sorted(before.keys() & after.keys()):
        was, now = before[name], after[name]
        if was == now:
            continue
        if was.keys() != now.keys():
            updated.append((name, _said(was), _said(now)))
            continue
        versions = [marker for marker in was if was[marker][0] != now[marker][0]]
        for marker in versions:
            updated.append((name, was[marker][0], _one(now[marker][0], marker)))
        if not versions:
            rehashed.append(name)
    return Changes(
        tuple(updated),
        tuple((name, _said(after[name])) for name in sorted(after.keys() - before.keys())),
        tuple((name, _said(before[name])) for name in sorted(before.keys() - after.keys())),
        tuple(rehashed),
    )


def _said(pins: Mapping[str, tuple[str, frozenset[str]]]) -> str:
    return ", ".join(_one(version, marker) for marker, (version, _) in sorted(pins.items()))


def _one(version: str, marker: str) -> str:
    return f"{version} ({marker})" if marker else version


def describe(changes: Changes) -> list[str]:
    """Describe each changed package in one line, updates first.

    >>> describe(compare("a==1\\nb==1 --hash=x:1", "a==2\\nb==1 --hash=x:2\\nc==3"))
    ['a: 1 -> 2', 'c: added, 3', 'b: the same version, other files']
    """
    return [
        *(f"{name}: {was} -> {now}" for name, was, now in changes.updated),
        *(f"{name}: added, {now}" for name, now in changes.added),
        *(f"{name}: removed, was {was}" for name, was in changes.removed),
        *(f"{name}: the same version, other files" for name in changes.rehashed),
    ]
