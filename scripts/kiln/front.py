"""The front of a release: its page and what goes with it, rendered anew and signed."""

from __future__ import annotations

from pathlib import Path

from kiln import release
from kiln.keys import SigningKey
from kiln.page.document import render
from kiln.signing import SIGNATURE_FILE


def refresh(dist: Path, key: SigningKey) -> bool:
    """Render ``dist/index.html`` from what is there, and sign it with what was measured.

    That is ``latency.json`` and ``accuracy.json``, where they are there.

    Returns:
        False where nothing had changed, or there is no model to write about.

    Raises:
        UsageError, StoreError, DiskFullError, SigningKeyError: see
            :func:`kiln.release.publish_page`.
    """
    release.check_target(dist)
    if not any((path / SIGNATURE_FILE).is_file() for path in dist.glob("*/")):
        return False
    files = {release.PAGE_FILE: render(dist).encode()}
    for name in (release.LATENCY_FILE, release.ACCURACY_FILE):
        if (dist / name).is_file():
            files[name] = (dist / name).read_bytes()
    return release.publish_page(dist, files, key)
