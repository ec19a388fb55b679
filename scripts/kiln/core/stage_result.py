"""The result of a stage as the store keeps it: files by digest, facts, and how it was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kiln.core.errors import StoreError

MANIFEST_VERSION = 1
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Blob:
    """A content in the store: its SHA-256 (64 hex digits) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class StageResult:
    """The result of one stage.

    Args:
        key: digest of everything that could influence it, 64 hex digits.
        stage: the stage's name.
        files: relative posix path to content.
        facts: plain data the stage reported (strings, numbers, lists, mappings).
        seconds: wall time.
        peak_rss: largest resident memory in bytes; 0 where it was not measured.
    """

    key: str
    stage: str
    files: dict[str, Blob]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_rss: int = 0


def manifest_of(result: StageResult) -> dict[str, Any]:
    """Return a result as plain data, which :func:`parse_result` reads."""
    return {
        "version": MANIFEST_VERSION,
        "key": result.key,
        "stage": result.stage,
        "files": {n: {"sha256": b.sha256, "size": b.size} for n, b in result.files.items()},
        "facts": result.facts,
        "seconds": result.seconds,
        "peak_rss": result.peak_rss,
    }


def safe_name(name: str) -> str:
    """Return ``name`` as a relative posix path without ``..``.

    Raises:
        StoreError: it is something else.
    """
    parts = name.split("/")
    if not name or "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise StoreError(f"{name!r} is not a relative file name.", "This is a bug in the stage.")
    return str(PurePosixPath(name))


def parse_result(manifest: dict[str, Any], key: str) -> StageResult | None:
    """Read a manifest of the store; None if it is of another version or key, or damaged."""
    try:
        if manifest["version"] != MANIFEST_VERSION or manifest["key"] != key:
            return None
        files = {
            safe_name(name): Blob(entry["sha256"], entry["size"])
            for name, entry in manifest["files"].items()
        }
        result = StageResult(
            key=key,
            stage=manifest["stage"],
            files=files,
            facts=manifest["facts"],
            seconds=float(manifest["seconds"]),
            peak_rss=manifest["peak_rss"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, StoreError):
        return None
    sound = (
        isinstance(result.stage, str)
        and isinstance(result.facts, dict)
        and type(result.peak_rss) is int
        and all(
            isinstance(blob.sha256, str)
            and _HEX64.fullmatch(blob.sha256)
            and type(blob.size) is int
            for blob in files.values()
        )
    )
    return result if sound else None
