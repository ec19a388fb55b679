"""The front of a release: its page and what goes with it, rendered anew and signed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kiln.core.digest import sha256_bytes
from kiln.page.document import render
from kiln.release import publish
from kiln.release.layout import MEASURED_FILES, PAGE_FILE, read_or_none
from kiln.signing.model_signature import SIGNATURE_FILE
from kiln.signing.signer import Signer


def refresh(dist: Path, signer: Signer, *, measured: Collection[str] = ()) -> bool:
    """Render ``dist/index.html`` from what is there, and have it vouched for.

    Args:
        measured: names of those of ``latency.json`` and ``accuracy.json`` that were just written
            by us. The others stay only where the release's statement vouched for them before:
            nobody else's figures are signed.

    Returns:
        False where nothing had changed, or there is no model to write about.

    Raises:
        UsageError, StoreError, DiskFullError, SigningKeyError: see
            :func:`kiln.release.publish.publish_page`.
    """
    publish.check_target(dist)
    if not any((path / SIGNATURE_FILE).is_file() for path in dist.glob("*/")):
        return False
    found = {}
    for name in MEASURED_FILES:
        data = read_or_none(dist / name)
        if data is not None:
            found[name] = data
    if not found.keys() <= set(measured):
        before = publish.vouched(dist, signer)
        for name in found.keys() - set(measured):
            if before.get(name) != sha256_bytes(found[name]):
                (dist / name).unlink()  # nor are they on the page
                del found[name]
    # The key that is about to sign: the ``kiln.pub`` of another one is replaced with the page.
    key_id = sha256_bytes(signer.public_pem) if signer.public_pem else ""
    page = render(dist, key_id).encode()
    return publish.publish_page(dist, {PAGE_FILE: page, **found}, signer)
