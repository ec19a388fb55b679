"""One release out of parts that were built apart, each signed by the same key."""

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
    """A release that verifies; ``models`` are those that came from the parts, in their order."""

    models: tuple[str, ...]
    report: VerifyReport


def collect(parts: Sequence[Path], dist: Path, signer: Signer, trust: Trust) -> Collected:
    """Bring the models of all parts into ``dist``, and make anew what is about all of them.

    Every part is verified before anything is written. Model folders keep their signatures; page,
    sums and what vouches for the whole are of ``dist`` alone. Latency that a part measured is left
    behind: it compares files of one machine.

    Args:
        signer: signs what is about all of them.
        trust: who may have signed parts, and the whole.

    Raises:
        VerificationError: a part is not exactly what was signed; nothing was written.
        UsageError: two parts hold one model, or ``dist`` is a part or no release.
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
            error.message, "Something wrote to it meanwhile, or it was damaged before: start over."
        ) from error
    return Collected(tuple(folders), report)
