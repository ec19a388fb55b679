"""A real disk that fills up quickly, for the tests of what happens then."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(at: Path, size: str = "256k", inodes: int = 0) -> Iterator[Path]:
    """A real file system of a few pages, or of a few files; skips where we may not mount."""
    at.mkdir()
    options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def make_read_only(disk: Path) -> None:
    """From now on nothing on a :func:`small_disk` can be changed, by root neither."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
