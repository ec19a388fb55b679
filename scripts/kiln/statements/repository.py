"""Ask git which commit of which repository the checkout is at."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

#: Paths that can influence a build; a changed README does not make a tree dirty.
TRACKED = ("docker", "scripts", "models", "pyproject.toml", "Makefile", "LICENSE", "NOTICE")

#: Seconds that git may take; if it hangs (a dead network disk), the state is unknown.
PATIENCE = 5.0


@dataclass(frozen=True)
class Repository:
    """A checkout's state.

    Attributes:
        uri: ``git+`` and the address of the remote ``origin`` without user and password;
            ``git+unknown`` where it has no public address.
        commit: 40 (or 64) hex digits.
        dirty: whether any path of :data:`TRACKED` differs from that commit.
    """

    uri: str
    commit: str
    dirty: bool


def repository_of(root: Path) -> Repository | None:
    """Return the state of the checkout at ``root``; None if it is not one, or git fails."""
    if not (root / ".git").exists():
        return None
    status = _git(root, "status", "--porcelain=v2", "--branch", "--", *TRACKED)
    found = re.search(r"^# branch\.oid ([0-9a-f]{40,64})$", status or "", re.MULTILINE)
    if status is None or found is None:
        return None
    dirty = any(line and not line.startswith("#") for line in status.splitlines())
    remote = _git(root, "config", "--get", "remote.origin.url") or ""
    return Repository(f"git+{public_address(remote.strip()) or 'unknown'}", found[1], dirty)


def _git(root: Path, *arguments: str) -> str | None:
    # Ignore the repository of a git hook that runs us, and take no lock that blocks a user's git.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def public_address(remote: str) -> str:
    """Strip user, password, query and fragment from a remote's address; "" for a local path.

    >>> public_address("https://me:secret@example.com/kiln.git?token=1")
    'https://example.com/kiln.git'
    >>> public_address("git@example.com:me/kiln.git")
    'ssh://example.com/me/kiln.git'
    >>> public_address("/home/me/kiln"), public_address("file:///home/me/kiln")
    ('', '')
    """
    short = re.fullmatch(r"(?:[^@/:]+@)?([^@/:]+):(?!//)(.+)", remote)
    if short:
        remote = f"ssh://{short[1]}/{short[2].lstrip('/')}"
    try:
        parts = urlsplit(remote)
        host, port = parts.hostname, parts.port
    except ValueError:
        return ""
    if not host or parts.scheme not in ("https", "http", "ssh", "git"):
        return ""
    place = f"{host}:{port}" if port else host
    return urlunsplit((parts.scheme, place, parts.path, "", ""))
