"""Compute digests of files, folders and plain data, the same on every machine."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kiln.core.errors import StoreError

_CHUNK = 1 << 20

#: Files hashed at a time; more would wait for the disk.
HASHING_THREADS = 4

CACHE_PATTERNS: tuple[str, ...] = ("__pycache__", "*.pyc")
"""Names that :func:`tree_digest` skips: Python writes them as a side effect of running."""


def sha256_bytes(data: bytes) -> str:
    """Compute SHA-256 of ``data``, 64 lower-case hex digits.

    >>> sha256_bytes(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Compute SHA-256 of a file, 64 lower-case hex digits; ``OSError`` if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_files(paths: Mapping[str, Path]) -> dict[str, str]:
    """Compute SHA-256 of several files on several processors: name -> 64 lower-case hex digits.

    Raises:
        OSError: one of them cannot be read.
    """
    # Hashing large chunks and reading files both let other threads run.
    with ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="digest") as pool:
        return dict(zip(paths, pool.map(sha256_file, paths.values()), strict=True))


def git_blob_sha1_file(path: Path) -> str:
    """Compute ``git hash-object`` of a file: SHA-1 of ``blob <size>\\0`` and the content.

    The published fingerprints of the zoo archives' files have this form. It identifies a file but
    does not protect against attackers; SHA-256 does.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(obj: Any) -> bytes:
    """Encode ``obj`` as canonical JSON: sorted keys, no spaces, UTF-8.

    Numbers keep their kind (``1`` and ``1.0`` differ); tuples are lists.

    Raises:
        TypeError: a value that JSON cannot express, or a mapping key that is not a string (the
            ``json`` module would turn ``1`` into ``"1"`` and let two keys collide).
        ValueError: NaN, infinity, a lone surrogate, or a structure that contains itself.

    >>> canonical_json({"b": (1, 2.5), "a": "ü"}).decode()
    '{"a":"ü","b":[1,2.5]}'
    """
    text = json.dumps(
        obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    _refuse_other_keys(obj)  # after dumps, which detects cycles
    return text.encode("utf-8")


def _refuse_other_keys(obj: Any) -> None:
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"a key of canonical JSON must be a string, not {key!r}")
            _refuse_other_keys(value)
    elif isinstance(obj, list | tuple):
        for value in obj:
            _refuse_other_keys(value)


def key_of(obj: Any) -> str:
    """Compute SHA-256 of :func:`canonical_json`: a key for plain data."""
    return sha256_bytes(canonical_json(obj))


def tree_digest(root: Path, *, exclude: Iterable[str] = CACHE_PATTERNS) -> str:
    """Compute one digest of a folder: relative paths, executable bits and contents.

    Times, owners, other mode bits, empty folders and the order of the directory do not count.

    Args:
        root: the folder.
        exclude: shell patterns of file or folder *names* to skip.

    Raises:
        StoreError: ``root`` is not a folder, or holds a symbolic link, a device, a socket or a
            name that is not UTF-8: these cannot be copied to every machine unchanged.
    """
    return tree_key(tree_files(root, exclude=exclude))


def tree_files(
    root: Path, *, exclude: Iterable[str] = CACHE_PATTERNS
) -> dict[str, tuple[bool, str]]:
    """Return what :func:`tree_digest` counts: relative path -> (executable?, SHA-256).

    Raises:
        StoreError: as there.
    """
    patterns = tuple(exclude)
    if not root.is_dir():
        raise StoreError(f"{root} is not a folder.", "Check the path.")
    return {path: (flag, file) for path, flag, file in _tree_entries(root, "", patterns)}


def tree_key(files: Mapping[str, tuple[bool, str]]) -> str:
    """Compute :func:`tree_digest` from what :func:`tree_files` returns."""
    return key_of([[path, *files[path]] for path in sorted(files)])


def _tree_entries(
    folder: Path, prefix: str, patterns: tuple[str, ...]
) -> list[tuple[str, bool, str]]:
    found: list[tuple[str, bool, str]] = []
    with os.scandir(folder) as scan:
        for entry in scan:
            if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns):
                continue
            relative = f"{prefix}{entry.name}"
            path = Path(entry.path)
            try:
                relative.encode("utf-8")
            except UnicodeEncodeError:
                raise StoreError(
                    f"The name {relative!r} in {folder} is not UTF-8.", "Rename it."
                ) from None
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                found += _tree_entries(path, f"{relative}/", patterns)
            elif stat.S_ISREG(mode):
                found.append((relative, bool(mode & stat.S_IXUSR), sha256_file(path)))
            else:
                what = "a symbolic link" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                raise StoreError(
                    f"{path} is {what}; only files and folders can be digested.",
                    "Replace it by a plain file.",
                )
    return found
