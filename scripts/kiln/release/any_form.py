"""Verifying a release in whatever form it comes: its folder, an archive, or one artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.release.single_file import is_archive, unpacked, verify_file
from kiln.release.verify import ReleasedFile, verify_by
from kiln.signing.trust import Trust


@dataclass(frozen=True)
class Verified:
    """What was verified, down to every byte.

    Attributes:
        release: what the release is called; empty for a single artefact.
        models: the names of its models.
        files: all files of the models: path in the release, size in bytes, SHA-256.
        signers: the names of those whose signatures held.
    """

    release: str
    models: tuple[str, ...]
    files: tuple[ReleasedFile, ...]
    signers: tuple[str, ...]


def verify_any(target: Path, trust: Trust, bundles: Sequence[Path] = ()) -> Verified:
    """Check signatures, digests, provenance and that nothing is missing or was added.

    Args:
        target: a release folder, an archive of one, or a ``.tflite`` file.
        bundles: of a single file; by default those beside it.

    Raises:
        VerificationError: something does not hold.
        ArchiveError: the archive is damaged, or unpacks to what no release is.
        UsageError: ``bundles`` go with a single file only.
    """
    place = target.absolute()
    if place.is_file() and not is_archive(place):
        found = verify_file(place, trust, bundles)
        file = ReleasedFile(place.name, found.size, found.sha256)
        return Verified("", (found.model,), (file,), found.signers)
    if bundles:
        raise UsageError("Bundles go with a single file.", "A folder's bundles are inside it.")
    if place.is_file():
        with unpacked(place) as folder:
            return _verified(folder, trust)
    return _verified(place, trust)


def _verified(folder: Path, trust: Trust) -> Verified:
    report = verify_by(folder, trust)
    models = tuple(model.name for model in report.models)
    files = tuple(file for model in report.models for file in model.files)
    return Verified(report.release, models, files, report.signers)
