"""File systems of our own: small, without inodes, read-only; gone at the end whatever they hold."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hostile.cases import LeftOutError


def may_mount() -> bool:
    """Whether this process can try at all."""
    return os.geteuid() == 0


@contextlib.contextmanager
def mounted(at: Path, options: str) -> Iterator[Path]:
    """A tmpfs with ``options`` at the new folder ``at``.

    Unmounting removes what is in it, however deep or numerous that is.

    Raises:
        LeftOutError: it cannot be mounted here.
    """
    at.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "hostile", str(at)]
    if not may_mount() or subprocess.run(command, capture_output=True, check=False).returncode:
        raise LeftOutError("mounting a tmpfs needs root")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def remount(at: Path, options: str) -> None:
    """Change a mounted file system's options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(at)], check=True, capture_output=True)
