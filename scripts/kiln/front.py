"""The front of a release: its page and what goes with it, rendered anew and signed."""

from __future__ import annotations

from pathlib import Path

from kiln import release
from kiln.attest.signer import Signer
from kiln.digest import sha256_bytes
from kiln.page.document import render
from kiln.release_layout import LATENCY_FILE, PAGE_FILE
from kiln.signing import SIGNATURE_FILE


def refresh(dist: Path, signer: Signer, *, measured: bool = False) -> bool:
    """Render ``dist/index.html`` from what is there, and have it vouched for.

    Args:
        measured: whether ``latency.json`` was just written by us. Otherwise it stays only where
            the release's statement vouched for it before: nobody else's figures are signed.

    Returns:
        False where nothing had changed, or there is no model to write about.

    Raises:
        UsageError, StoreError, DiskFullError, SigningKeyError: see
            :func:`kiln.release.publish_page`.
    """
    release.check_target(dist)
    if not any((path / SIGNATURE_FILE).is_file() for path in dist.glob("*/")):
        return False
    latency = dist / LATENCY_FILE
    data = latency.read_bytes() if latency.is_file() else None
    if data is not None and not measured:
        before = release.vouched(dist, signer)
        if before.get(LATENCY_FILE) != sha256_bytes(data):
            latency.unlink()  # nor are they on the page
            data = None
    files = {PAGE_FILE: render(dist).encode()}
    if data is not None:
        files[LATENCY_FILE] = data
    return release.publish_page(dist, files, signer)
