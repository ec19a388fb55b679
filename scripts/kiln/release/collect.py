"""Collect one release from parts that were built separately, each signed by the same key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln.core.errors import UsageError, VerificationError
from kiln.release import publish, verify
from kiln.release.index_page import refresh
from kiln.release.verify import VerifyReport
from kiln.signing.signer import Signer
from kiln.signing.trust import Trust


@dataclass(frozen=True)
class Collected:
    """A verified release; ``models`` are those that came from the parts, in their order."""

    models: tuple[str, ...]
    report: VerifyReport


def collect(parts: Sequence[Path], dist: Path, signer: Signer, trust: Trust) -> Collected:
    """Copy the models of all parts into ``dist``, and make page, sums and statement again.

    Every part is verified before anything is written. Model folders keep their signatures; page,
    sums and the release's statement are made for ``dist``. Measured latency is not copied: it
    compares files on one machine.

    Args:
        signer: signs page, sums and the release's statement.
        trust: who may have signed the parts.

    Raises:
        VerificationError: a part is not exactly what was signed; nothing was written.
        UsageError: two parts hold one model, or ``dist`` is one of the parts or not a release.
        StoreError, DiskFullError, SigningKeyError: as :func:`kiln.release.publish.publish`.
    """
    publish.check_target(dist)
    folders: dict[str, Path] = {}
    for part in parts:
        if part.resolve() == dist.resolve():
            raise UsageError(f"{dist} cannot be collected into itself.", "Name another --dist.")
        for model in verify.verify_by(part, trust).models:
            if model.name in folders:
                raise UsageError(
                    f"Model {model.name!r} is in {folders[model.name].parent} and in {part}.",
                    "Leave one of the two out.",
                )
            folders[model.name] = part / model.name
    publish.adopt(dist, list(folders.values()), signer, trust)
    refresh(dist, signer)
    try:
        report = verify.verify_by(dist, trust)
    except VerificationError as error:
        raise VerificationError(
            error.message, "Another process wrote to it, or it was damaged before. Start over."
        ) from error
    return Collected(tuple(folders), report)
