"""Verify a release in any form: its folder, an archive of it, or one artefact."""

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
    """A release that was verified, every byte of it.

    Attributes:
        release: the release's name; empty for a single artefact.
        models: the names of its models.
        files: all files of the models: path in the release, size in bytes, SHA-256.
        signers: the names of the signers whose signatures were valid.
        ignored: paths that were not looked at, with what is below them: git's own.
    """

    release: str
    models: tuple[str, ...]
    files: tuple[ReleasedFile, ...]
    signers: tuple[str, ...]
    ignored: tuple[str, ...] = ()


def verify_any(
    target: Path, trust: Trust, bundles: Sequence[Path] = (), ignore_git: bool = False
) -> Verified:
    """Verify signatures, digests and provenance, and that no file is missing or was added.

    Args:
        target: a release folder, an archive of one, or a ``.tflite`` file.
        bundles: the bundles of a single file; by default those beside it.
        ignore_git: see :func:`kiln.release.verify.verify_by`.

    Raises:
        VerificationError: a check failed.
        ArchiveError: the archive is damaged, or does not contain a release.
        UsageError: ``bundles`` were given for something else than a single file.
    """
    place = target.absolute()
    if place.is_file() and not is_archive(place):
        found = verify_file(place, trust, bundles)
        file = ReleasedFile(place.name, found.size, found.sha256)
        return Verified("", (found.model,), (file,), found.signers)
    if bundles:
        raise UsageError(
            "Bundles only apply to a single file.", "A folder's bundles are inside it."
        )
    if place.is_file():
        with unpacked(place) as folder:
            return _verified(folder, trust, ignore_git)
    return _verified(place, trust, ignore_git)


def _verified(folder: Path, trust: Trust, ignore_git: bool) -> Verified:
    report = verify_by(folder, trust, ignore_git)
    models = tuple(model.name for model in report.models)
    files = tuple(file for model in report.models for file in model.files)
    return Verified(report.release, models, files, report.signers, report.ignored)
