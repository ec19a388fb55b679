"""Compare files with their pins in a recipe."""

from __future__ import annotations

from pathlib import Path

from kiln.core.digest import git_blob_sha1_file, sha256_file
from kiln.recipes.source import SourceFile


def mismatch(pinned: SourceFile, path: Path) -> str | None:
    """Describe how a file differs from its pin; ``None`` if it matches."""
    size = path.stat().st_size
    if pinned.size is not None and size != pinned.size:
        return f"{size} bytes, not {pinned.size}"
    if pinned.git_blob_sha1 and git_blob_sha1_file(path) != pinned.git_blob_sha1:
        return f"git blob SHA-1 {git_blob_sha1_file(path)}, not {pinned.git_blob_sha1}"
    if pinned.sha256 and sha256_file(path) != pinned.sha256:
        return f"SHA-256 {sha256_file(path)}, not {pinned.sha256}"
    return None
