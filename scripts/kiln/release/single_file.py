"""Verify a release outside its folder: one artefact with its bundles, or an archive.

An artefact is checked against its signed provenance and, where there is one, its test result. An
archive is unpacked to a scratch folder as untrusted data, and verified there like any release.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core import git_lfs
from kiln.core.archive import unpack
from kiln.core.digest import sha256_file
from kiln.core.errors import ArchiveError, VerificationError
from kiln.core.untrusted import MalformedError, read_file, read_named
from kiln.project import bounds
from kiln.release.layout import KEY_FILE, SUMS_FILE
from kiln.signing import dsse
from kiln.signing.statement_names import (
    ATTESTATIONS,
    ORIGINAL,
    PROVENANCE_SUFFIX,
    PROVENANCE_TYPE,
    TEST_RESULT_SUFFIX,
    TEST_RESULT_TYPE,
    artefact_file,
)
from kiln.signing.trust import PROVENANCE, TEST_RESULT, Trust, part

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")

_ROLES = {PROVENANCE_TYPE: PROVENANCE, TEST_RESULT_TYPE: TEST_RESULT}
_REMEDY = "Do not use this file: fetch it and its bundles again, from the place its maker names."


@dataclass(frozen=True)
class VerifiedFile:
    """An artefact that matches its provenance.

    Attributes:
        path: as it was named.
        size: bytes.
        sha256: its digest, in hex.
        model: the model it belongs to, by its provenance.
        result: the signed result of its checks; empty where there is none.
        signers: the signers whose signatures were valid.
    """

    path: Path
    size: int
    sha256: str
    model: str
    result: str
    signers: tuple[str, ...]


def is_archive(path: Path) -> bool:
    """Whether the name is that of a release archive."""
    return path.name.lower().endswith(ARCHIVES)


def verify_file(path: Path, trust: Trust, bundles: Sequence[Path] = ()) -> VerifiedFile:
    """Verify one artefact against the bundles about it.

    Args:
        path: the artefact.
        trust: who may sign what.
        bundles: the bundles; by default those with its name beside it and in ``attestations/``.

    Raises:
        VerificationError: there is no provenance, a bundle is not valid or is about another file,
            or a required statement is missing.
    """
    for place in (path.parent, path.parent.parent):
        with contextlib.suppress(OSError, MalformedError):
            trust.offer_key(read_file(place / KEY_FILE, bounds.KEY.most))
    try:
        git_lfs.refuse_pointer(path, VerificationError)
        size, digest = path.stat().st_size, sha256_file(path)
    except OSError as error:
        raise VerificationError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path."
        ) from None
    found: dict[str, dict[str, Any]] = {}
    model = ""
    # Provenance first: it names the model, which decides who may sign test results.
    for role, bundle, data in _in_order(bundles or _bundles_of(path)):
        peeked = _model_of(bundle, data) if role == PROVENANCE else model
        statement = trust.open(data, role, peeked, str(bundle))
        if role in found:
            raise VerificationError(f"{path.name}: {bundle} is a second {role}.", "Name one.")
        if role == PROVENANCE:
            model = peeked
        _check_subject(path, digest, bundle, statement)
        found[role] = statement
    if PROVENANCE not in found:
        raise VerificationError(
            f"{path.name}: there is no provenance beside it.",
            f"Put {path.name}{PROVENANCE_SUFFIX} beside it, or name it with --bundle.",
        )
    unmet = trust.requirements.unmet_by_provenance(found[PROVENANCE])
    if path.name != artefact_file(model, ORIGINAL):  # the publisher's file is not tested
        unmet += trust.requirements.unmet_by_test_result(found.get(TEST_RESULT))
    if unmet:
        raise VerificationError(
            f"{path.name} {'; '.join(unmet)}.", "The trust file does not allow that."
        )
    result = str(part(found.get(TEST_RESULT), "predicate", "result") or "")
    return VerifiedFile(path, size, digest, model, result, tuple(trust.used))


def _bundles_of(path: Path) -> list[Path]:
    return [
        place / f"{path.name}{suffix}"
        for suffix in (PROVENANCE_SUFFIX, TEST_RESULT_SUFFIX)
        for place in (path.parent, path.parent / ATTESTATIONS)
        if (place / f"{path.name}{suffix}").is_file()
    ]


def _in_order(bundles: Sequence[Path]) -> list[tuple[str, Path, bytes]]:
    found = []
    for bundle in bundles:
        try:
            data = read_named(bundle, bounds.STATEMENT.most)
        except OSError as error:
            raise VerificationError(
                f"{bundle} cannot be read: {error.strerror or error}.", "Check the path."
            ) from None
        except MalformedError as error:
            raise VerificationError(f"{bundle} {error}.", _REMEDY) from None
        if git_lfs.is_pointer(data):
            raise git_lfs.refusal(VerificationError, str(bundle))
        try:
            role = _ROLES[str(dsse.peek_unverified(data)["predicateType"])]
        except (VerificationError, KeyError, TypeError):
            raise VerificationError(
                f"{bundle} is damaged, or neither a provenance nor a test result.", _REMEDY
            ) from None
        found.append((role, bundle, data))
    return sorted(found, key=lambda item: (item[0] != PROVENANCE, item[1]))


def _model_of(bundle: Path, data: bytes) -> str:
    """Return the model that a provenance claims to be about, before it is verified."""
    try:
        return str(
            dsse.peek_unverified(data)["predicate"]["buildDefinition"]["externalParameters"][
                "model"
            ]
        )
    except (KeyError, TypeError):
        raise VerificationError(
            f"{bundle} does not say which model it is about.", _REMEDY
        ) from None


def _check_subject(path: Path, digest: str, bundle: Path, statement: Mapping[str, Any]) -> None:
    try:
        (subject,) = statement["subject"]
        name, signed = str(subject["name"]), subject["digest"]["sha256"]
    except (KeyError, TypeError, ValueError):
        raise VerificationError(
            f"{path.name}: {bundle} is not about exactly one file.", _REMEDY
        ) from None
    if signed != digest:
        what = "was changed" if name == path.name else f"is not {name}"
        raise VerificationError(
            f"{path.name} {what}: its digest is not the one in {bundle}.", _REMEDY
        )
    if name != path.name:
        raise VerificationError(
            f"{path.name} is {name} under another name, says {bundle}.", f"Rename it to {name}."
        )


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Unpack an archive to scratch, and yield the release folder in it.

    Raises:
        VerificationError: it cannot be unpacked safely or completely, or holds no release.
        DiskFullError: no space left for it.
    """
    with contextlib.suppress(OSError):  # unpacking tells what cannot be read
        git_lfs.refuse_pointer(archive, VerificationError)
    with tempfile.TemporaryDirectory(prefix="kiln-verify-") as scratch:
        place = Path(scratch) / "release"
        try:
            unpack(archive, place, refuse_litter=True)
        except ArchiveError as error:
            raise VerificationError(error.message, error.remedy) from None
        entries = list(place.iterdir())
        if len(entries) == 1 and (entries[0] / SUMS_FILE).is_file():
            place = entries[0]
        if not (place / SUMS_FILE).is_file():
            raise VerificationError(
                f"{archive} holds no release: there is no {SUMS_FILE} at its top.",
                "Name an archive of a dist folder that `kiln build` wrote.",
            )
        try:
            yield place
        except VerificationError as error:
            # Users know the archive, not the scratch folder.
            message = error.message.replace(str(place), str(archive))
            raise VerificationError(message, error.remedy) from None
