"""The ``dist`` folder: what a user gets, complete, signed and verifiable.

::

    dist/<model>/...            the artefacts
    dist/<model>/model.sig      signature of all other files in that folder
    dist/index.html             the release as a page; latency.json, where it was measured
    dist/page.sig               signature of those two
    dist/SHA256SUMS             every file below dist except itself, in sha256sum's format
    dist/kiln.pub               the public key of the signatures

Nothing else may be in it. A model folder is prepared aside and exchanged as a whole;
``SHA256SUMS`` follows. A process killed between the two leaves a sum that does not hold, never
half a model, and the next :func:`publish` repairs it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kiln import keys, signing
from kiln.digest import sha256_bytes, sha256_file
from kiln.errors import SigningKeyError, StoreError, UsageError, VerificationError
from kiln.files import aside_of, copy_file, disk_guard, remove, replace_tree, write_atomic
from kiln.keys import SigningKey
from kiln.listing import Listing, list_tree, printable
from kiln.signing import SIGNATURE_FILE
from kiln.trust import Trust, trust_in_key

SUMS_FILE = "SHA256SUMS"
KEY_FILE = "kiln.pub"
PAGE_FILE, LATENCY_FILE = "index.html", "latency.json"
PAGE_FILES = (PAGE_FILE, LATENCY_FILE)
PAGE_SIGNATURE = "page.sig"

#: The name of the folder that ``page.sig`` is the signature of, once its files are put there.
PAGE_NAME = "page"

_LOOSE = (SUMS_FILE, KEY_FILE, *PAGE_FILES, PAGE_SIGNATURE)

_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_REMEDY = (
    "Do not use these files: fetch the release again, or remove the named ones and run "
    "`kiln build`."
)


@dataclass(frozen=True)
class ReleasedFile:
    """A verified file: path relative to dist, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ReleasedModel:
    """A model folder whose signature holds; ``files`` are sorted by path, with the signature."""

    name: str
    files: tuple[ReleasedFile, ...]


@dataclass(frozen=True)
class VerifyReport:
    """A release that is exactly what the key's owner signed.

    Attributes:
        models: sorted by name.
        signers: the names of those whose signatures held.
    """

    models: tuple[ReleasedModel, ...]
    signers: tuple[str, ...]


def publish(dist: Path, model: str, files: Mapping[str, Path | bytes], key: SigningKey) -> bool:
    """Make ``dist/<model>`` hold exactly ``files`` and a signature by ``key``.

    Args:
        dist: the release folder; made if it is not there.
        model: the folder's name below it.
        files: relative POSIX path -> content, or a file to copy (never linked: nobody who edits
            dist may reach into the store).
        key: who signs.

    Returns:
        False when the folder already was exactly that and nothing was signed again.

    Raises:
        UsageError: ``dist`` holds things that are no release.
        StoreError: a name in ``files`` is impossible, or a file cannot be read or written.
        DiskFullError: no space left; the model's former files are as they were.
        SigningKeyError: the key cannot be used.
    """
    _check_names(model, files)
    with disk_guard(dist), _reporting(dist):
        dist.mkdir(parents=True, exist_ok=True)
        with _locked(dist, exclusive=True):
            _sweep(dist)
            check_target(dist)
            fresh = not _is_published(dist / model, files, key)
            if fresh:
                _put(dist, model, files, key)
            if _read_or_none(dist / KEY_FILE) != key.public_pem:
                write_atomic(dist / KEY_FILE, key.public_pem)
            _write_sums(dist)
    return fresh


def publish_page(dist: Path, files: Mapping[str, bytes], key: SigningKey) -> bool:
    """Make ``dist`` hold exactly ``files`` of :data:`PAGE_FILES`, and a signature by ``key``.

    Returns:
        False when it already was exactly that and nothing was signed again.

    Raises:
        UsageError, StoreError, DiskFullError, SigningKeyError: as :func:`publish`.
    """
    assert set(files) <= set(PAGE_FILES)
    with disk_guard(dist), _reporting(dist), _locked(dist, exclusive=True):
        _sweep(dist)
        check_target(dist)
        fresh = not _is_page(dist, files, key)
        if fresh:
            # The signature goes first: whoever is killed leaves files that it does not fit.
            remove(dist / PAGE_SIGNATURE)
            aside = aside_of(dist / PAGE_NAME)
            folder = aside / PAGE_NAME  # the folder's name is part of what is signed
            try:
                folder.mkdir(parents=True)
                for name, content in files.items():
                    (folder / name).write_bytes(content)
                signing.sign_folder(folder, key)
                for name in PAGE_FILES:
                    if name not in files:
                        remove(dist / name)
                    elif _read_or_none(dist / name) != files[name]:
                        write_atomic(dist / name, files[name])
                write_atomic(dist / PAGE_SIGNATURE, (folder / SIGNATURE_FILE).read_bytes())
            finally:
                remove(aside)
        _write_sums(dist)
    return fresh


def _is_page(dist: Path, files: Mapping[str, bytes], key: SigningKey) -> bool:
    data = _read_or_none(dist / PAGE_SIGNATURE)
    there = {name: _read_or_none(dist / name) for name in PAGE_FILES}
    if data is None or {name: one for name, one in there.items() if one is not None} != files:
        return False
    try:
        signed = signing.read_signature(data, key.public_pem)
    except VerificationError:
        return False
    return signed.name == PAGE_NAME and signed.digests == {
        name: sha256_bytes(content) for name, content in files.items()
    }


def refresh_sums(dist: Path) -> None:
    """Make ``dist/SHA256SUMS`` say what is there now; an up-to-date one is left alone.

    Raises:
        UsageError, StoreError, DiskFullError: as :func:`publish`.
    """
    with disk_guard(dist), _reporting(dist), _locked(dist, exclusive=True):
        _sweep(dist)
        check_target(dist)
        _write_sums(dist)


def adopt(dist: Path, folder: Path, key: SigningKey) -> bool:
    """Make ``dist/<name of folder>`` a copy of a model folder that ``key`` has signed already.

    The copy keeps that signature, and all others in it.

    Returns:
        False when it was there already, signature for signature.

    Raises:
        VerificationError: ``key`` did not sign what was copied.
        UsageError, StoreError, DiskFullError: as :func:`publish`.
    """
    model = folder.name
    files: dict[str, Path | bytes] = dict(list_tree(folder).files)
    signature = files.pop(SIGNATURE_FILE, None)
    _check_names(model, files)
    with disk_guard(dist), _reporting(dist):
        dist.mkdir(parents=True, exist_ok=True)
        with _locked(dist, exclusive=True):
            _sweep(dist)
            check_target(dist)
            there = _read_or_none(dist / model / SIGNATURE_FILE)
            same = there == _read_or_none(folder / SIGNATURE_FILE)
            fresh = not (same and _is_published(dist / model, files, key))
            if fresh:
                aside = aside_of(dist / model)
                prepared = aside / model
                try:
                    prepared.mkdir(parents=True)
                    _fill(prepared, {**files, SIGNATURE_FILE: signature or b""})
                    # The copy is asked, not what was copied: that may have changed meanwhile.
                    if not _is_published(prepared, files, key):
                        raise VerificationError(
                            f"{folder} is not what the signing key signed.", _REMEDY
                        )
                    _exchange(prepared, dist / model)
                finally:
                    remove(aside)
            if _read_or_none(dist / KEY_FILE) != key.public_pem:
                write_atomic(dist / KEY_FILE, key.public_pem)
            _write_sums(dist)
    return fresh


def check_target(dist: Path) -> None:
    """Refuse to publish into a folder that holds something other than a release.

    A folder that does not exist yet is fine. Worth asking before a long build.

    Raises:
        UsageError: there is something in ``dist`` that :func:`publish` did not put there.
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
        if entry.name in _LOOSE or _is_our_aside(entry.name):
            continue
        if not (Path(entry.path) / SIGNATURE_FILE).is_file():
            raise UsageError(
                f"{dist} is not (only) a release: {entry.name!r} in it is not from kiln.",
                "Move it elsewhere, or name another folder with --dist.",
            )


def verify(dist: Path, trust: Trust | bytes) -> VerifyReport:
    """Check every byte of a release: signatures, sums, and that nothing is missing or added.

    Args:
        dist: the release folder.
        trust: who is trusted with what, or the one key to trust, in PEM. The release's own
            ``kiln.pub`` must be a trusted key; it is never trusted by itself.

    Raises:
        VerificationError: something does not hold; the message names every such file.
        SigningKeyError: the key to trust is no usable public key.
    """
    if isinstance(trust, bytes):
        trust = trust_in_key(trust)
    try:
        with _locked(dist, exclusive=False):
            return _Verification(dist, trust).report()
    except OSError as error:
        raise VerificationError(
            f"{dist} is no release folder: {error.strerror or error}.",
            "Name the dist folder that `kiln build` wrote.",
        ) from None


# --- publishing ----------------------------------------------------------------------------


def _check_names(model: str, files: Mapping[str, Path | bytes]) -> None:
    if not _MODEL_NAME.fullmatch(model):
        raise StoreError(f"{model!r} cannot be the name of a model folder.", "Rename the recipe.")
    if not files:
        raise StoreError(f"{model} has no files to release.", "This is a fault of kiln: report it.")
    for name in files:
        parts = PurePosixPath(name).parts
        plain = bool(parts) and str(PurePosixPath(name)) == name and name.isprintable()
        hidden = any(part.startswith(".") for part in parts)  # includes ".."
        if not plain or hidden or "\\" in name or name.startswith("/") or name == SIGNATURE_FILE:
            raise StoreError(
                f"{name!r} cannot be the name of a released file of {model}.",
                "This is a fault of kiln: report it.",
            )


@contextlib.contextmanager
def _reporting(dist: Path) -> Iterator[None]:
    """Turn an operating system error into a message; "no space" is disk_guard's."""
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


@contextlib.contextmanager
def _locked(dist: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock on the folder ``dist`` itself, so that no lock file is seen in it."""
    while True:
        fd = os.open(dist, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            except OSError as error:
                # Some network file systems cannot lock a folder. Each step is atomic anyway;
                # without the lock a concurrent SHA256SUMS may be stale until the next build.
                if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP):
                    raise
            here, held = os.stat(dist), os.fstat(fd)  # noqa: PTH116 (pairs with fstat)
            if (here.st_dev, here.st_ino) != (held.st_dev, held.st_ino):
                continue  # removed and made anew while we waited
            yield
            return
        finally:
            os.close(fd)


def _is_our_aside(name: str) -> bool:
    return name.startswith(".") and name.endswith(".aside")


def _sweep(dist: Path) -> None:
    # Whoever holds the lock is alone, so every leftover is dead, also another container's.
    for path in dist.iterdir():
        if _is_our_aside(path.name):
            remove(path)


def _is_published(folder: Path, files: Mapping[str, Path | bytes], key: SigningKey) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    listing = list_tree(folder)
    data = _read_or_none(folder / SIGNATURE_FILE)
    if data is None or listing.odd or listing.files.keys() - {SIGNATURE_FILE} != files.keys():
        return False
    try:
        signed = signing.read_signature(data, key.public_pem)
    except VerificationError:
        return False
    return signed.name == folder.name and all(
        signed.digests.get(name) == _digest_of(files[name]) == sha256_file(listing.files[name])
        for name in files
    )


def _digest_of(content: Path | bytes) -> str:
    return sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content)


def _put(dist: Path, model: str, files: Mapping[str, Path | bytes], key: SigningKey) -> None:
    target = dist / model
    aside = aside_of(target)
    prepared = aside / model  # the folder's name is part of what is signed
    try:
        prepared.mkdir(parents=True)
        _fill(prepared, files)
        signing.sign_folder(prepared, key)
        _exchange(prepared, target)
    finally:
        remove(aside)


def _fill(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
            place.chmod(0o644)
        else:
            copy_file(content, place)


def _exchange(prepared: Path, target: Path) -> None:
    for folder in (prepared, *(path for path in prepared.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    if target.is_symlink() or target.is_file():
        target.unlink()  # verify accepts folders only
    replace_tree(prepared, target)


def _sums(digests: Mapping[str, str]) -> bytes:
    """``sha256sum``'s lines, sorted as ``LC_ALL=C sort`` would sort the paths."""
    lines = {path.encode("utf-8", "surrogateescape"): digests[path].encode() for path in digests}
    return b"".join(b"%s  %s\n" % (lines[path], path) for path in sorted(lines))


def _write_sums(dist: Path) -> None:
    files = list_tree(dist).files
    files.pop(SUMS_FILE, None)
    sums = _sums({path: sha256_file(file) for path, file in files.items()})
    if _read_or_none(dist / SUMS_FILE) != sums:
        write_atomic(dist / SUMS_FILE, sums)


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


# --- verifying -----------------------------------------------------------------------------


class _Verification:
    """One pass over a release; gathers every problem, path -> reasons."""

    def __init__(self, dist: Path, trust: Trust) -> None:
        self.dist = dist
        self.trust = trust
        self.problems: dict[str, list[str]] = {}
        self.listing = list_tree(dist)
        self.digests: dict[str, str] = {}
        #: What a path must hold according to who is trusted, whatever SHA256SUMS says.
        self.vouched: dict[str, str] = {}

    def report(self) -> VerifyReport:
        folders = {path.split("/")[0] for path in self.listing.files if "/" in path}
        models = sorted(folder for folder in folders if not _is_our_aside(folder))
        if not models and not self.listing.files.keys() & {SUMS_FILE, KEY_FILE}:
            raise VerificationError(
                f"{self.dist} is no release: it holds no signed model, {SUMS_FILE} or {KEY_FILE}.",
                "Name the dist folder that `kiln build` wrote.",
            )
        for path, what in self.listing.odd.items():
            self._problem(path, what)
        self._digest_files()
        foreign = self._check_key()
        if not models:
            self._problem(".", "holds no model")
        for model in models:
            self._check_model(model)
        self._check_page()
        for path in self.listing.files:
            if path.split("/")[0] not in (*_LOOSE, *models):
                self._problem(path, _stray(path))
        self._check_sums()
        if self.problems:
            raise self._error(foreign)
        return VerifyReport(
            tuple(ReleasedModel(model, self._files_of(model)) for model in models),
            tuple(self.trust.used),
        )

    def _problem(self, path: str, what: str) -> None:
        reasons = self.problems.setdefault(path, [])
        if what not in reasons:
            reasons.append(what)

    def _error(self, foreign: str) -> VerificationError:
        count = len(self.problems)
        head = f"{self.dist} does not verify, {count} problem{'s' if count > 1 else ''}:"
        lines = "".join(
            f"\n  {printable(path)}: {'; '.join(what)}"
            for path, what in sorted(self.problems.items())
        )
        if foreign:
            return VerificationError(
                f"{head}{lines}\nThe release was signed by another key (id {foreign[:16]}) than "
                f"the trusted one ({' or '.join(one.name for one in self.trust.signers)}).",
                "If you know whose key that is and trust it, get it from its owner and name it "
                "with --key FILE.",
            )
        return VerificationError(head + lines, _REMEDY)

    def _digest_files(self) -> None:
        for path, file in self.listing.files.items():
            try:
                self.digests[path] = sha256_file(file)
            except OSError as error:
                self._problem(path, f"cannot be read: {error.strerror or error}")

    def _check_key(self) -> str:
        """The id of the release's own key where it is a sound one but not the trusted one."""
        data = _read_or_none(self.dist / KEY_FILE) if KEY_FILE in self.digests else None
        if data is None:
            self._problem(KEY_FILE, "is missing")
            return ""
        self.trust.offer_key(data)
        try:
            other = keys.canonical_public_pem(data)
        except SigningKeyError:
            self._problem(KEY_FILE, "is damaged: it is no public key")
            return ""
        if not self.trust.knows_key(other):
            self._problem(KEY_FILE, "is not the trusted key")
            return keys.key_id(other)
        if other != data:
            self._problem(KEY_FILE, "is not in its canonical form")
            return ""
        self.vouched[KEY_FILE] = sha256_bytes(data)
        return ""

    def _check_model(self, model: str) -> None:
        prefix = f"{model}/"
        signature = prefix + SIGNATURE_FILE
        if signature not in self.digests:
            self._problem(signature, "is missing: nothing vouches for this folder")
            return
        actual = {
            path.removeprefix(prefix): digest
            for path, digest in self.digests.items()
            if path.startswith(prefix) and path != signature
        }
        odd = {
            path.removeprefix(prefix): what
            for path, what in self.listing.odd.items()
            if path.startswith(prefix)
        }
        try:
            data = (self.dist / signature).read_bytes()
            signed = self.trust.open_model_signature(data, model)
        except VerificationError as error:
            what = error.message.removeprefix(SIGNATURE_FILE).strip().rstrip(".")
            self._problem(signature, what)
            return
        if signed.name != model:
            self._problem(signature, f"is the signature of {signed.name!r}, not of {model!r}")
        self.vouched.update({prefix + name: digest for name, digest in signed.digests.items()})
        for name, what in signing.compare(signed, actual, Listing(odd=odd)).items():
            self._problem(prefix + name, what)

    def _check_page(self) -> None:
        actual = {name: self.digests[name] for name in PAGE_FILES if name in self.digests}
        if PAGE_SIGNATURE not in self.digests:
            for name in actual:
                self._problem(name, f"is not signed: {PAGE_SIGNATURE} is missing")
            return
        try:
            data = (self.dist / PAGE_SIGNATURE).read_bytes()
            signed = self.trust.open_model_signature(data, None)
        except VerificationError as error:
            what = error.message.removeprefix(SIGNATURE_FILE).strip().rstrip(".")
            self._problem(PAGE_SIGNATURE, what)
            return
        if signed.name != PAGE_NAME:
            self._problem(PAGE_SIGNATURE, f"is the signature of {signed.name!r}, not of the page")
        self.vouched.update(signed.digests)
        for name, what in signing.compare(signed, actual, Listing()).items():
            self._problem(name, what)

    def _check_sums(self) -> None:
        actual = {path: digest for path, digest in self.digests.items() if path != SUMS_FILE}
        data = _read_or_none(self.dist / SUMS_FILE) if SUMS_FILE in self.digests else None
        if data is None:
            self._problem(SUMS_FILE, "is missing")
            return
        if data == _sums(actual):
            return
        listed: dict[str, str] = {}
        text = data.decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            match = _SUM_LINE.fullmatch(line)
            if match:
                listed[match[2]] = match[1]
            else:
                self._problem(SUMS_FILE, f"line {number} is damaged")
        if data != _sums(listed) and SUMS_FILE not in self.problems:
            self._problem(SUMS_FILE, "is not in its canonical form (order, spaces or line ends)")
        for path in sorted(listed.keys() | actual.keys()):
            self._compare_sum(path, listed.get(path), actual.get(path))

    def _compare_sum(self, path: str, listed: str | None, actual: str | None) -> None:
        if listed == actual:
            return
        if actual is not None and self.vouched.get(path) == actual:
            what = "lacks" if listed is None else "has another digest for"
            self._problem(SUMS_FILE, f"{what} {path}")
        elif listed is None:
            self._problem(path, f"is not listed in {SUMS_FILE}")
        elif actual is None:
            if path not in self.problems:
                self._problem(path, f"is listed in {SUMS_FILE} but missing")
        else:
            self._problem(path, f"does not match its line in {SUMS_FILE}")

    def _files_of(self, model: str) -> tuple[ReleasedFile, ...]:
        return tuple(
            ReleasedFile(path, file.stat().st_size, self.digests[path])
            for path, file in sorted(self.listing.files.items())
            if path.startswith(f"{model}/")
        )


def _stray(path: str) -> str:
    if _is_our_aside(path.split("/")[0]):
        return "was left by an interrupted build; the next `kiln build` removes it"
    return "does not belong to a release: no signature covers it"
