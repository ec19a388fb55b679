"""A release of two toy models: what is in it, and how it is looked at."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from toy_release import ToyModel

from kiln.core.errors import VerificationError
from kiln.release import publish, verify
from kiln.release.layout import sums
from kiln.signing.signer import KeySigner

ARTEFACTS = {"float32": bytes(range(256)) * 4, "dynamic": bytes(range(255, -1, -1)) * 2}


MORE = {"labelmap.txt": "person\ncafé\n".encode(), "previews/cat.jpg": b"\xff\xd8"}


PAGE = {
    "index.html": b"<!doctype html><title>A release</title>",
    "latency.json": b"{}",
    "accuracy.json": b"{ }",
}


Snapshot = dict[str, bytes]


def publish_toy(dist: Path, name: str, model: ToyModel, signer: KeySigner) -> bool:
    return publish.publish(dist, name, model.files, signer, model.statements)


def snapshot(folder: Path) -> Snapshot:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(dist: Path, public_pem: bytes) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify.verify(dist, public_pem)
    assert caught.value.remedy
    return caught.value


def spoil_artefact(dist: Path) -> None:
    (dist / "toy" / "labelmap.txt").write_bytes(b"dog\n")


def sum_again(dist: Path) -> None:
    """What somebody without the key can do about SHA256SUMS."""
    (dist / "SHA256SUMS").write_bytes(
        sums(
            {
                path: hashlib.sha256(data).hexdigest()
                for path, data in snapshot(dist).items()
                if path not in ("SHA256SUMS", "release.sigstore.json")
            }
        )
    )
