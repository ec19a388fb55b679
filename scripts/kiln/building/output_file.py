"""Write the single file that a command was asked for."""

from __future__ import annotations

import os
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.core.files import write_atomic


def check_target(path: Path, force: bool) -> None:
    """Refuse a file that cannot be written, or exists and may not be replaced.

    Raises:
        UsageError: it cannot, or may not.
    """
    try:
        there = os.path.lexists(path)
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(
                f"{path} cannot be written: it is a folder, or there is none to hold it.",
                "Name a file in a folder that exists, and in which you may write.",
            )
    except OSError as error:
        raise _unwritable(path, error) from None
    if there and not force:
        raise UsageError(f"{path} exists.", "Name another file, or replace it with --force.")


def write(path: Path, data: bytes) -> None:
    """Write a whole file; ``UsageError`` if that fails."""
    try:
        write_atomic(path, data)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be written: {error.strerror or error}.", "Name another file.")
