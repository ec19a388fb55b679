"""Render and sign the index page of a release."""

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
    """Render ``dist/index.html`` from the models in ``dist``, and sign it.

    Args:
        measured: which of ``latency.json`` and ``accuracy.json`` this process just wrote. The
            others stay only if the release's statement already covered them: kiln does not sign
            measurements of unknown origin.

    Returns:
        False where nothing had changed, or there are no models.

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
        before = publish.covered(dist, signer)
        for name in found.keys() - set(measured):
            if before.get(name) != sha256_bytes(found[name]):
                (dist / name).unlink()  # they are not on the page either
                del found[name]
    # The key that is about to sign; another key's ``kiln.pub`` is replaced with the page.
    key_id = sha256_bytes(signer.public_pem) if signer.public_pem else ""
    page = render(dist, key_id).encode()
    return publish.publish_page(dist, {PAGE_FILE: page, **found}, signer)
