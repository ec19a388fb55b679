"""Recognise the pointers that Git leaves in place of files when Git LFS is not installed."""

from __future__ import annotations

import re
from pathlib import Path

from kiln.core.errors import KilnError

#: Bytes of the largest pointer, by the format's specification; real ones have 130.
MAX_BYTES = 1024

REMEDY = "Run `git lfs pull` in its repository, then try again."

# By form, not by the address in the first line, which older versions have otherwise.
_POINTER = re.compile(
    rb"version https?://\S+\r?\n(ext-\d-\S+ \S+\r?\n)*oid sha256:[0-9a-f]{64}\r?\nsize \d+\s*"
)


def is_pointer(data: bytes) -> bool:
    """Whether ``data``, a whole file or its first :data:`MAX_BYTES`, is a pointer.

    >>> is_pointer(b"version https://example.org/v1\\noid sha256:" + b"0" * 64 + b"\\nsize 9\\n")
    True
    >>> is_pointer(b"version 1")
    False
    """
    return len(data) <= MAX_BYTES and _POINTER.fullmatch(data) is not None


def is_pointer_file(path: Path) -> bool:
    """Whether the file at ``path`` is a pointer.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return is_pointer(file.read(MAX_BYTES + 1))


def refusal(error: type[KilnError], name: str) -> KilnError:
    """Return the error for a pointer in place of the file that is called ``name``."""
    return error(f"{name} is a Git LFS pointer, not the file itself.", REMEDY)


def refuse_pointer(path: Path, error: type[KilnError], name: str = "") -> None:
    """Refuse a file that is a pointer.

    Args:
        path: the file.
        error: what to raise.
        name: what to call the file; by default its path.

    Raises:
        KilnError: of class ``error``; it is a pointer.
        OSError: it cannot be read.
    """
    if is_pointer_file(path):
        raise refusal(error, name or str(path))
