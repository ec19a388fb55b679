"""What changed between two versions of a lock, in words. Pure: texts in, sentences out.

Two kinds are known: pip's format (``name==version`` with hashes, several versions of one package
where markers choose) and our own list of Debian packages (``name version arch sha256 …``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_HASH = re.compile(r"--hash=(\S+)")
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]*))?")

Versions = Mapping[str, Mapping[str, frozenset[str]]]
"""Package -> version (with its marker, where there is one) -> what its files may be."""


@dataclass(frozen=True)
class Changes:
    """How one lock differs from another; sorted by name.

    Attributes:
        updated: (package, old versions, new versions).
        added: (package, versions); ``removed`` likewise.
        rehashed: packages whose versions stayed, and whose files did not.
    """

    updated: tuple[tuple[str, str, str], ...] = ()
    added: tuple[tuple[str, str], ...] = ()
    removed: tuple[tuple[str, str], ...] = ()
    rehashed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.updated or self.added or self.removed or self.rehashed)


def parse(text: str) -> Versions:
    """The packages of a lock of either kind; what is no package is passed over.

    >>> parse("six==1.17.0 \\\\\\n    --hash=sha256:aa")
    {'six': {'1.17.0': frozenset({'sha256:aa'})}}
    >>> parse("bash 5.1-2 amd64 ff 9 debian pool/main/b/bash/bash_5.1-2_amd64.deb")
    {'bash': {'5.1-2': frozenset({'ff'})}}
    """
    found: dict[str, dict[str, frozenset[str]]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.partition("#")[0].strip()
        fields = line.split()
        if match := _PIN.match(line):
            name, version = match[1].lower(), match[2]
            marker = (match[3] or "").partition("--hash")[0].strip()
            said = f"{version} ({marker})" if marker else version
            found.setdefault(name, {})[said] = frozenset(_HASH.findall(line))
        elif len(fields) == 7:
            name, version, arch, digest = fields[:4]
            key = name if arch in ("amd64", "all") else f"{name}:{arch}"
            found.setdefault(key, {})[version] = frozenset({digest})
    return found


def compare(old: str, new: str) -> Changes:
    """How the lock ``new`` differs from the lock ``old``."""
    before, after = parse(old), parse(new)
    updated, rehashed = [], []
    for name in sorted(before.keys() & after.keys()):
        was, now = before[name], after[name]
        if was.keys() != now.keys():
            updated.append((name, _said(was), _said(now)))
        elif was != now:
            rehashed.append(name)
    return Changes(
        tuple(updated),
        tuple((name, _said(after[name])) for name in sorted(after.keys() - before.keys())),
        tuple((name, _said(before[name])) for name in sorted(before.keys() - after.keys())),
        tuple(rehashed),
    )


def _said(versions: Mapping[str, frozenset[str]]) -> str:
    return ", ".join(sorted(versions))


def in_words(changes: Changes) -> list[str]:
    """One sentence a package, updates first.

    >>> in_words(compare("a==1\\nb==1 --hash=x:1", "a==2\\nb==1 --hash=x:2\\nc==3"))
    ['a: 1 -> 2', 'c: added, 3', 'b: the same version, other files']
    """
    return [
        *(f"{name}: {was} -> {now}" for name, was, now in changes.updated),
        *(f"{name}: added, {now}" for name, now in changes.added),
        *(f"{name}: removed, was {was}" for name, was in changes.removed),
        *(f"{name}: the same version, other files" for name in changes.rehashed),
    ]
