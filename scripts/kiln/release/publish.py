"""Publish models into a release that is complete, signed and verifiable (see
:mod:`kiln.release.layout`).

A model folder is prepared aside and swapped in as a whole; then ``SHA256SUMS`` and the statement
about the whole release are written. A process killed in between leaves an outdated statement, never
half a model, and the next :func:`publish` repairs it.

Existing files are not signed merely because they are there. A model folder has its own signature,
which reveals changed files independently of the release's statement; files beside the models stay
only if this process just made them or the previous statement covered them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from kiln.core.digest import canonical_json, sha256_bytes, sha256_file, sha256_files
from kiln.core.errors import StoreError, UsageError, VerificationError
from kiln.core.files import aside_of, copy_file, disk_guard, remove, replace_tree, write_atomic
from kiln.core.listing import list_tree
from kiln.release.layout import (
    KEY_FILE,
    LOOSE,
    PAGE_FILES,
    SUMS_FILE,
    is_our_aside,
    locked,
    read_or_none,
    sums,
)
from kiln.signing import dsse
from kiln.signing.model_signature import SIGNATURE_FILE
from kiln.signing.signer import Signer
from kiln.signing.statement_names import RELEASE_BUNDLE
from kiln.signing.trust import Trust
from kiln.statements.release_statement import read_release, release_id, release_statement

#: Formerly the signature of the page: a model signature of a folder of this name. The release's
#: statement replaced it; files it covers are accepted one last time, then it is removed.
OLD_PAGE_SIGNATURE = "page.sig"
_OLD_PAGE_NAME = "page"

_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True)
class Pinned:
    """A file to release whose content must match its SHA-256."""

    path: Path
    sha256: str


#: The source of a released file: a file to copy, or the bytes themselves.
Content = Pinned | Path | bytes

#: Path of a bundle below a model folder -> its statement.
Statements = Mapping[str, Mapping[str, Any]]


def publish(
    dist: Path,
    model: str,
    files: Mapping[str, Content],
    signer: Signer,
    statements: Statements | None = None,
) -> bool:
    """Make ``dist/<model>`` hold exactly ``files`` and ``statements``, signed by ``signer``.

    A bundle whose statement is the same as before keeps its signature.

    Args:
        dist: the release folder; made if it is not there.
        model: the folder's name below it.
        files: relative POSIX path -> content, or a file to copy (never hard-linked: editing dist
            must not change the store).
        statements: relative POSIX path of a bundle -> its statement.

    Returns:
        False if the folder already was exactly that and nothing in it was signed again.

    Raises:
        UsageError: ``dist`` holds other things than a release.
        StoreError: a name in ``files`` is impossible, a pinned file has another content, or a file
            cannot be read or written.
        DiskFullError: no space left; the model's former files are as they were.
        SigningKeyError: the key cannot be used.
    """
    stated = {path: canonical_json(one) for path, one in (statements or {}).items()}
    _check_names(model, files, stated)
    name = release_id()
    with _changing(dist):
        there = _published(dist / model, files, stated, signer)
        if there is None:
            _put(dist, model, files, statements or {}, signer)
        known = {f"{model}/{path}": digest for path, digest in (there or {}).items()}
        _finish(dist, signer, name, hashed=known)
    return there is None


def publish_page(dist: Path, files: Mapping[str, bytes], signer: Signer) -> bool:
    """Make ``dist`` hold exactly ``files`` of :data:`PAGE_FILES`, signed by ``signer``.

    Returns:
        False if it already was exactly that.

    Raises:
        UsageError, StoreError, DiskFullError, SigningKeyError: as :func:`publish`.
    """
    assert set(files) <= set(PAGE_FILES)
    name = release_id()
    digests = {path: sha256_bytes(content) for path, content in files.items()}
    with disk_guard(dist), _reporting(dist), locked(dist, exclusive=True):
        _sweep(dist)
        check_target(dist)
        before = covered(dist, signer)
        fresh = False
        for path in PAGE_FILES:
            there = read_or_none(dist / path)
            fresh |= there != files.get(path) or digests.get(path) != before.get(path)
            if path not in files:
                remove(dist / path)
            elif there != files[path]:
                write_atomic(dist / path, files[path])
        _finish(dist, signer, name, digests)
    return fresh


def refresh_sums(dist: Path, signer: Signer) -> None:
    """Update ``SHA256SUMS`` and the release's statement to the present files.

    Files that are up to date are not touched.

    Raises:
        UsageError, StoreError, DiskFullError, SigningKeyError: as :func:`publish`.
    """
    name = release_id()
    with disk_guard(dist), _reporting(dist), locked(dist, exclusive=True):
        _sweep(dist)
        check_target(dist)
        _finish(dist, signer, name)


def adopt(dist: Path, folders: Sequence[Path], signer: Signer, trust: Trust) -> list[str]:
    """Copy model folders that are already signed into ``dist``.

    The copies keep that signature, and all others in them.

    Args:
        folders: each is copied under its own name.
        signer: signs the statement about the whole release, once.
        trust: who may have signed the folders.

    Returns:
        The models that were not yet there with the same signature.

    Raises:
        VerificationError: no trusted signer signed the copy; earlier folders are in ``dist``.
        UsageError, StoreError, DiskFullError, SigningKeyError: as :func:`publish`.
    """
    name = release_id()
    with _changing(dist):
        fresh = [folder.name for folder in folders if _adopt(dist, folder, trust)]
        _finish(dist, signer, name)
    return fresh


def _adopt(dist: Path, folder: Path, trust: Trust) -> bool:
    target = dist / folder.name
    files: dict[str, Content] = dict(list_tree(folder).files)
    files.pop(SIGNATURE_FILE, None)
    _check_names(folder.name, files, {})
    signature = read_or_none(folder / SIGNATURE_FILE)
    if read_or_none(target / SIGNATURE_FILE) == signature and _is_signed(target, trust):
        return False
    aside = aside_of(target)
    prepared = aside / folder.name
    try:
        with disk_guard(dist):
            prepared.mkdir(parents=True)
            _fill(prepared, {**files, SIGNATURE_FILE: signature or b""})
        # Verify the copy, not the original: that may have changed meanwhile.
        if not _is_signed(prepared, trust):
            raise VerificationError(
                f"{folder} does not match a trusted signature.",
                "Do not use these files: build or fetch them again.",
            )
        _exchange(prepared, target)
    finally:
        remove(aside)
    return True


def covered(dist: Path, signer: Signer) -> dict[str, str]:
    """Return path -> SHA-256 of the files that ``signer``'s statement about the release covers.

    Empty where there is no such statement.
    """
    try:
        data = read_or_none(dist / RELEASE_BUNDLE)
        if data is not None:
            return read_release(signer.open_bundle(data))[0]
        data = read_or_none(dist / OLD_PAGE_SIGNATURE)
        if data is not None:
            signed = signer.read_signature(data)
            if signed.name == _OLD_PAGE_NAME:
                return {path: signed.digests[path] for path in signed.digests if path in PAGE_FILES}
    except VerificationError:
        pass
    return {}


def check_target(dist: Path) -> None:
    """Refuse to publish into a folder that holds other things than a release.

    A folder that does not exist yet is fine. Callers check this before a long build.

    Raises:
        UsageError: ``dist`` holds something that :func:`publish` did not write.
    """
    try:
        with os.scandir(dist) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"{dist} cannot be used as the release folder: {error.strerror or error}.",
            "Name another folder with --dist.",
        ) from None
    for entry in entries:
        if entry.name in (*LOOSE, OLD_PAGE_SIGNATURE) or is_our_aside(entry.name):
            continue
        if not (Path(entry.path) / SIGNATURE_FILE).is_file():
            raise UsageError(
                f"{dist} is not (only) a release: {entry.name!r} in it is not from kiln.",
                "Move it elsewhere, or name another folder with --dist.",
            )


# --- internals ----------------------------------------------------------------------------


def _finish(
    dist: Path,
    signer: Signer,
    name: str,
    made: Mapping[str, str] = MappingProxyType({}),
    hashed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write key, sums and the release's statement, each only if it changed.

    Args:
        name: the release's name.
        made: path -> SHA-256 of the page's files that were just made.
        hashed: the same of files that were read under the present lock.
    """
    known = {**covered(dist, signer), **made}
    for path in PAGE_FILES:
        if (dist / path).exists() and sha256_file(dist / path) != known.get(path):
            remove(dist / path)
    remove(dist / OLD_PAGE_SIGNATURE)
    if signer.public_pem is None:
        remove(dist / KEY_FILE)
    elif read_or_none(dist / KEY_FILE) != signer.public_pem:
        write_atomic(dist / KEY_FILE, signer.public_pem)
    files = list_tree(dist).files
    listed = files.keys() - {SUMS_FILE, RELEASE_BUNDLE}
    digests = sha256_files({path: files[path] for path in listed - hashed.keys()})
    digests |= {path: hashed[path] for path in listed & hashed.keys()}
    lines = sums(digests)
    if read_or_none(dist / SUMS_FILE) != lines:
        write_atomic(dist / SUMS_FILE, lines)
    statement = release_statement({**digests, SUMS_FILE: sha256_bytes(lines)}, name)
    if not _states(read_or_none(dist / RELEASE_BUNDLE), canonical_json(statement), signer):
        write_atomic(dist / RELEASE_BUNDLE, signer.seal(statement))


def _states(data: bytes | None, payload: bytes, signer: Signer) -> bool:
    """Whether a bundle holds exactly this statement, signed by ``signer``."""
    if data is None or dsse.payload_of(data) != payload:
        return False
    try:
        signer.open_bundle(data)
    except VerificationError:
        return False
    return True


def _check_names(model: str, files: Mapping[str, Content], stated: Mapping[str, bytes]) -> None:
    if not _MODEL_NAME.fullmatch(model):
        raise StoreError(f"{model!r} cannot be the name of a model folder.", "Rename the recipe.")
    if not files:
        raise StoreError(
            f"{model} has no files to release.", "This is a bug in kiln: please report it."
        )
    for name in [*files, *stated]:
        parts = PurePosixPath(name).parts
        plain = bool(parts) and str(PurePosixPath(name)) == name and name.isprintable()
        hidden = any(part.startswith(".") for part in parts)  # includes ".."
        if (
            not plain
            or hidden
            or "\\" in name
            or name.startswith("/")
            or name == SIGNATURE_FILE
            or (name in files and name in stated)
        ):
            raise StoreError(
                f"{name!r} cannot be the name of a released file of {model}.",
                "This is a bug in kiln: please report it.",
            )


@contextlib.contextmanager
def _changing(dist: Path) -> Iterator[None]:
    """Hold the release folder for changes: created, locked, swept, and certainly a release."""
    with disk_guard(dist), _reporting(dist):
        dist.mkdir(parents=True, exist_ok=True)
        with locked(dist, exclusive=True):
            _sweep(dist)
            check_target(dist)
            yield


@contextlib.contextmanager
def _reporting(dist: Path) -> Iterator[None]:
    """Convert operating system errors to StoreError; disk_guard handles "no space"."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        name = os.fsdecode(error.filename) if error.filename else str(dist)
        raise StoreError(
            f"Cannot write the release in {dist}: {name}: {error.strerror or error}.",
            "Check the folder and who owns it, or name another one with --dist.",
        ) from error


def _sweep(dist: Path) -> None:
    # Under the lock, every leftover belongs to a dead process, even one of another container.
    for path in dist.iterdir():
        if is_our_aside(path.name):
            remove(path)


def _published(
    folder: Path,
    files: Mapping[str, Content],
    stated: Mapping[str, bytes],
    signer: Signer,
) -> dict[str, str] | None:
    """Return the SHA-256 of the folder's files if these are exactly those, signed; else None."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    listing = list_tree(folder)
    data = read_or_none(folder / SIGNATURE_FILE)
    wanted = {*files, *stated}
    if data is None or listing.odd or listing.files.keys() - {SIGNATURE_FILE} != wanted:
        return None
    try:
        signed = signer.read_signature(data)
    except VerificationError:
        return None
    there = sha256_files({path: listing.files[path] for path in wanted})
    same = (
        signed.name == folder.name
        and signed.digests == there
        and all(there[path] == _digest_of(files[path]) for path in files)
        and all(_states(listing.files[path].read_bytes(), stated[path], signer) for path in stated)
    )
    return there if same else None


def _is_signed(folder: Path, trust: Trust) -> bool:
    """Whether a model folder is exactly what a trusted signer signed."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    listing = list_tree(folder)
    data = read_or_none(folder / SIGNATURE_FILE)
    if data is None or listing.odd:
        return False
    try:
        signed = trust.open_model_signature(data, folder.name)
    except VerificationError:
        return False
    there = sha256_files(
        {path: file for path, file in listing.files.items() if path != SIGNATURE_FILE}
    )
    return signed.name == folder.name and signed.digests == there


def _digest_of(content: Content) -> str:
    if isinstance(content, Pinned):
        return content.sha256
    return sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content)


def _put(
    dist: Path,
    model: str,
    files: Mapping[str, Content],
    statements: Statements,
    signer: Signer,
) -> None:
    target = dist / model
    aside = aside_of(target)
    prepared = aside / model  # the folder's name is part of what is signed
    try:
        with disk_guard(dist):  # checks the space before the prepared files are removed
            prepared.mkdir(parents=True)
            _fill(prepared, files)
            for name, statement in statements.items():
                place = prepared / name
                place.parent.mkdir(parents=True, exist_ok=True)
                before = read_or_none(target / name)
                if before is None or not _states(before, canonical_json(statement), signer):
                    before = signer.seal(statement)
                place.write_bytes(before)
                place.chmod(0o644)
            signer.sign_folder(prepared)
            _exchange(prepared, target)
    finally:
        remove(aside)


def _fill(folder: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
            place.chmod(0o644)
        elif isinstance(content, Pinned):
            copy_file(content.path, place)
            # Hash the copy: that is what gets signed.
            if sha256_file(place) != content.sha256:
                raise StoreError(
                    f"{name}: its content in the store, {content.sha256}, is damaged.",
                    "Run the build again; it replaces damaged files.",
                )
        else:
            copy_file(content, place)


def _exchange(prepared: Path, target: Path) -> None:
    for folder in (prepared, *(path for path in prepared.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    if target.is_symlink() or target.is_file():
        target.unlink()  # verify accepts folders only
    replace_tree(prepared, target)
