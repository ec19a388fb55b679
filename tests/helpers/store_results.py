"""A result with its contents in a store."""

from __future__ import annotations

import hashlib

from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store

KEY = "ab" * 32


# -- results and refs ---------------------------------------------------------------------------


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def result_of(store: Store) -> StageResult:
    files = {"saved/model.pb": Blob(store.add_bytes(b"model"), 5), "x": Blob(sha(b""), 0)}
    store.add_bytes(b"")
    facts = {"size": [300, 300], "mean": 127.5, "nested": {"ok": True, "none": None}}
    return StageResult(KEY, "export", files, facts, 12.5, 2_000_000_000)
