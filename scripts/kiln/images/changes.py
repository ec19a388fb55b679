"""Describe how two versions of an image differ: packages, and files grouped by owner."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from kiln.images.seal import FileFact

_DIST_INFO = re.compile(
    r"(?P<where>.*/site-packages)/(?P<name>[^/]+)-(?P<version>[^/-]+)\.dist-info(?:/.*)?"
)
_OWNER = re.compile(r"(?P<where>.*/site-packages)/(?P<name>[^/]+)")
_DEPTH = 3  # depth of the folders that group files outside Python's packages


def python_packages(contents: Iterable[FileFact]) -> dict[str, str]:
    """Map ``<environment>: <package>`` to version for all installed packages of an image.

    >>> path = "opt/odapi/lib/python3.9/site-packages/six-1.17.0.dist-info"
    >>> python_packages([FileFact(path, "d", 0o755, "0:0", 0, "")])
    {'odapi: six': '1.17.0'}
    """
    found = {}
    for fact in contents:
        match = _DIST_INFO.fullmatch(fact.path)
        if match:
            parts = match["where"].split("/")
            where = parts[1] if parts[0] == "opt" else "system"
            found[f"{where}: {match['name'].replace('_', '-').lower()}"] = match["version"]
    return dict(sorted(found.items()))


def describe(old: Iterable[FileFact], new: Iterable[FileFact]) -> list[str]:
    """Describe the changes of two contents lists: a line a package, then one a group of files."""
    before, after = {f.path: f for f in old}, {f.path: f for f in new}
    return [*_packages(before, after), *_files(before, after)]


def _packages(before: dict[str, FileFact], after: dict[str, FileFact]) -> list[str]:
    was, now = python_packages(before.values()), python_packages(after.values())
    lines = []
    for name in sorted(was.keys() | now.keys()):
        if name not in now:
            lines.append(f"{name}: removed, was {was[name]}")
        elif name not in was:
            lines.append(f"{name}: added, {now[name]}")
        elif was[name] != now[name]:
            lines.append(f"{name}: {was[name]} -> {now[name]}")
    return lines


def _files(before: dict[str, FileFact], after: dict[str, FileFact]) -> list[str]:
    groups: dict[str, Counter[str]] = {}
    sizes: Counter[str] = Counter()
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        what = "added" if old is None else "removed" if new is None else "changed"
        group = group_of(path)
        groups.setdefault(group, Counter())[what] += 1
        sizes[group] += (new.size if new else 0) - (old.size if old else 0)
    return [
        f"{group}: {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))} "
        f"({sizes[group]:+,} bytes)"
        for group, counts in groups.items()
    ]


def group_of(path: str) -> str:
    """Return the group under which a file is reported.

    >>> group_of("opt/odapi/lib/python3.9/site-packages/numpy/core/a.py")
    '/opt/odapi/lib/python3.9/site-packages/numpy'
    >>> group_of("opt/odapi/lib/python3.9/site-packages/numpy-1.26.4.dist-info/RECORD")
    '/opt/odapi/lib/python3.9/site-packages/numpy'
    >>> group_of("usr/lib/x86_64-linux-gnu/libc.so.6"), group_of("bin")
    ('/usr/lib/x86_64-linux-gnu', '/bin')
    """
    if match := _DIST_INFO.fullmatch(path):
        return f"/{match['where']}/{match['name']}"
    if match := _OWNER.match(path):
        return f"/{match['where']}/{match['name']}"
    parts = path.split("/")
    return "/" + "/".join(parts[:_DEPTH] if len(parts) > _DEPTH else parts[:-1] or parts)
