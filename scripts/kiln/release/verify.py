"""Verify a release: every byte of it, and that nothing is missing or was added.

Signatures and statements are checked against signers that the user already trusts; nothing in the
folder is trusted by itself. Every problem names its file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kiln.core import git_lfs
from kiln.core.digest import sha256_bytes, sha256_file
from kiln.core.errors import SigningKeyError, VerificationError
from kiln.core.listing import Listing, list_tree, printable
from kiln.core.untrusted import MalformedError
from kiln.release.layout import (
    KEY_FILE,
    LOOSE,
    SUMS_FILE,
    is_gits,
    is_our_aside,
    locked,
    read,
    sums,
)
from kiln.signing import dsse, keys, model_signature
from kiln.signing.model_signature import SIGNATURE_FILE
from kiln.signing.statement_names import (
    ORIGINAL,
    RELEASE_BUNDLE,
    artefact_file,
    provenance_path,
    result_path,
)
from kiln.signing.trust import RELEASE, ModelTrust, Requirements, Trust, trust_in_key
from kiln.statements.release_statement import read_release
from kiln.statements.verify import ModelFiles, statement_problems

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_MOST_LINES = 20  # damaged lines that are listed
_GIT_REMEDY = "If this is a git checkout, --ignore-git passes over git's own files."
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
    """A release that matches its signatures exactly.

    Attributes:
        models: sorted by name.
        release: the release's name.
        signers: the names of the signers whose signatures were valid.
        ignored: paths that were not looked at, with what is below them: git's own.
    """

    models: tuple[ReleasedModel, ...]
    release: str
    signers: tuple[str, ...]
    ignored: tuple[str, ...] = ()


def verify(dist: Path, public_pem: bytes) -> VerifyReport:
    """Verify a release against one trusted key in PEM: see :func:`verify_by`.

    The release's own ``kiln.pub`` must be the same key; it is never trusted by itself.

    Raises:
        VerificationError: something is wrong; the message names every such file.
        SigningKeyError: ``public_pem`` is not a usable public key.
    """
    return verify_by(dist, trust_in_key(public_pem))


def verify_by(dist: Path, trust: Trust, ignore_git: bool = False) -> VerifyReport:
    """Verify every byte of a release: signatures, statements, sums, and that it is complete.

    Args:
        dist: the release folder.
        trust: who may sign what.
        ignore_git: whether to pass over what git keeps in a checkout
            (:func:`kiln.release.layout.is_gits`); no signature covers it.

    Raises:
        VerificationError: something is wrong; the message names every such file.
    """
    try:
        with locked(dist, exclusive=False):
            return _Verification(dist, trust, ignore_git).report()
    except OSError as error:
        raise VerificationError(
            f"{dist} is not a release folder: {error.strerror or error}.",
            "Name the dist folder that `kiln build` wrote.",
        ) from None


class _Verification:
    """One pass over a release; collects all problems, path -> reasons, without duplicates."""

    def __init__(self, dist: Path, trust: Trust, ignore_git: bool) -> None:
        self.dist = dist
        self.trust = trust
        self.ignore_git = ignore_git
        self.release = ""
        self.problems: dict[str, dict[str, None]] = {}
        # A checkout's .git has thousands of files: it is one problem, or none.
        self.listing = list_tree(dist, leave_out=is_gits)
        self.digests: dict[str, str] = {}
        #: Digests and irregular files by model, paths below its folder; without its signature.
        self.model_digests: dict[str, dict[str, str]] = {}
        self.model_odd: dict[str, dict[str, str]] = {}
        #: The digest a path must have by trusted statements, whatever SHA256SUMS says.
        self.trusted_digests: dict[str, str] = {}

    def report(self) -> VerifyReport:
        folders = {path.split("/")[0] for path in self.listing.files if "/" in path}
        models = sorted(folder for folder in folders if not is_our_aside(folder))
        if not models and not self.listing.files.keys() & {SUMS_FILE, KEY_FILE}:
            raise VerificationError(
                f"{self.dist} is not a release: it has no signed model, {SUMS_FILE} or {KEY_FILE}.",
                "Name the dist folder that `kiln build` wrote.",
            )
        for path, what in self.listing.odd.items():
            self._problem(path, what)
        if not self.ignore_git:
            for path in self.listing.left_out:
                self._problem(path, "is git's own: no signature covers it")
        self._digest_files()
        self.model_odd = _by_folder(self.listing.odd)
        self.model_digests = _by_folder(self.digests)
        for digests in self.model_digests.values():
            digests.pop(SIGNATURE_FILE, None)
        foreign = self._check_key()
        if not models:
            self._problem(".", "holds no model")
        for model in models:
            self._check_model(model)
        known = {*LOOSE, *models}
        for path in self.listing.files:
            if path.split("/")[0] not in known:
                self._problem(path, _stray(path))
        self._check_release()
        self._check_sums()
        if self.problems:
            raise self._error(foreign)
        paths = _by_folder({path: path for path in self.digests})
        return VerifyReport(
            tuple(ReleasedModel(model, self._files(paths[model].values())) for model in models),
            self.release,
            tuple(self.trust.used),
            tuple(self.listing.left_out),
        )

    def _problem(self, path: str, what: str) -> None:
        self.problems.setdefault(path, {})[what] = None

    def _error(self, foreign: str) -> VerificationError:
        pointers = {path for path in self.problems if self._is_pointer(path)}
        for path in pointers:
            self.problems[path] = {"is a Git LFS pointer, not the file itself": None}
        count = len(self.problems)
        head = f"{self.dist} does not verify, {count} problem{'s' if count > 1 else ''}:"
        lines = "".join(
            f"\n  {printable(path)}: {'; '.join(what)}"
            for path, what in sorted(self.problems.items())
        )
        if foreign:
            trusted = " or ".join(one.name for one in self.trust.signers)
            return VerificationError(
                f"{head}{lines}\nThe release was signed by another key (id {foreign[:16]}) than "
                f"the trusted one ({trusted}).",
                "If you know whose key that is and trust it, get it from its owner and name it "
                "with --key FILE.",
            )
        gits = self.problems.keys() & set(self.listing.left_out)
        remedies = [_GIT_REMEDY] * bool(gits) + [git_lfs.REMEDY] * bool(pointers)
        remedies += [_REMEDY] * (count > len(gits) + len(pointers))
        return VerificationError(head + lines, " ".join(remedies))

    def _is_pointer(self, path: str) -> bool:
        """Whether the file at ``path`` is what a clone without Git LFS has in its place."""
        try:
            return path in self.listing.files and git_lfs.is_pointer_file(self.listing.files[path])
        except OSError:
            return False

    def _read(self, path: str) -> bytes | None:
        """Read a file of the release; None if it is missing or unreadable, which is recorded."""
        if path not in self.digests:
            return None
        try:
            return read(self.dist / path)
        except MalformedError as error:
            self._problem(path, str(error))
        except OSError as error:
            self._problem(path, f"cannot be read: {error.strerror or error}")
        return None

    def _digest_files(self) -> None:
        for path, file in self.listing.files.items():
            try:
                self.digests[path] = sha256_file(file)
            except OSError as error:
                self._problem(path, f"cannot be read: {error.strerror or error}")

    def _check_key(self) -> str:
        """Return the id of the release's own key if it is valid but not the trusted one."""
        data = self._read(KEY_FILE)
        if data is None:
            if self.trust.by_key() and KEY_FILE not in self.problems:
                self._problem(KEY_FILE, "is missing")
            return ""
        self.trust.offer_key(data)
        try:
            other = keys.canonical_public_pem(data)
        except SigningKeyError:
            self._problem(KEY_FILE, "is damaged: it is not a public key")
            return ""
        if not self.trust.knows_key(other):
            self._problem(KEY_FILE, "is not the trusted key")
            return keys.key_id(other)
        if other != data:
            self._problem(KEY_FILE, "is not in its canonical form")
            return ""
        self.trusted_digests[KEY_FILE] = sha256_bytes(data)
        return ""

    def _check_model(self, model: str) -> None:
        prefix = f"{model}/"
        signature = prefix + SIGNATURE_FILE
        if signature not in self.digests:
            self._problem(signature, "is missing: no signature covers this folder")
            return
        actual = self.model_digests[model]
        odd = self.model_odd.get(model, {})
        data = self._read(signature)
        if data is None:
            return
        try:
            signed = self.trust.open_model_signature(data, model)
        except VerificationError as error:
            what = error.message.removeprefix(SIGNATURE_FILE).strip().rstrip(".")
            self._problem(signature, what)
            return
        if signed.name != model:
            self._problem(signature, f"is the signature of {signed.name!r}, not of {model!r}")
        self.trusted_digests.update(
            {prefix + name: digest for name, digest in signed.digests.items()}
        )
        problems = model_signature.compare(signed, actual, Listing(odd=odd))
        for name, what in problems.items():
            self._problem(prefix + name, what)
        if not problems:
            self._check_statements(model)

    def _check_statements(self, model: str) -> None:
        """Check the statements about each artefact of a model whose signature is valid."""
        prefix = f"{model}/"
        digests = self.model_digests[model]
        files = ModelFiles(model, digests, lambda name: read(self.dist / prefix / name))
        problems = statement_problems(files, ModelTrust(self.trust, model))
        for name, reasons in problems.items():
            for what in reasons:
                self._problem(prefix + name, what)
        if not problems:
            self._check_requirements(files)

    def _check_requirements(self, files: ModelFiles) -> None:
        """Check valid statements against the trust's requirements."""
        wanted = self.trust.requirements
        if wanted == Requirements():
            return
        for file in files.artefacts():
            path, result = provenance_path(file), result_path(file)
            unmet = wanted.unmet_by_provenance(dsse.peek_unverified(files.content(path)))
            if file != artefact_file(files.model, ORIGINAL):  # the publisher's own file, unchanged
                tested = result in files.digests
                stated = dsse.peek_unverified(files.content(result)) if tested else None
                unmet += wanted.unmet_by_test_result(stated)
            for what in unmet:
                self._problem(f"{files.model}/{file}", what)

    def _check_release(self) -> None:
        """Check the release's statement, which covers all other files."""
        if RELEASE_BUNDLE not in self.digests:
            self._problem(RELEASE_BUNDLE, "is missing: no signature covers the whole release")
            return
        data = self._read(RELEASE_BUNDLE)
        if data is None:
            return
        try:
            stated, self.release = read_release(self.trust.open(data, RELEASE, name=RELEASE_BUNDLE))
        except VerificationError as error:
            what = error.message.removeprefix(RELEASE_BUNDLE).strip().rstrip(".")
            self._problem(RELEASE_BUNDLE, what)
            return
        actual = {path: self.digests[path] for path in self.digests if path != RELEASE_BUNDLE}
        for path, digest in stated.items():
            # A model's own signature comes first: it is more specific about its folder.
            if actual.get(path) == digest:
                self.trusted_digests.setdefault(path, digest)
        for path in sorted(stated.keys() | actual.keys()):
            what = _difference(stated.get(path), actual.get(path))
            if what and (path not in self.problems or path in LOOSE):
                self._problem(path, what)

    def _check_sums(self) -> None:
        actual = {
            path: digest
            for path, digest in self.digests.items()
            if path not in (SUMS_FILE, RELEASE_BUNDLE)
        }
        data = self._read(SUMS_FILE)
        if data is None:
            if SUMS_FILE not in self.problems:
                self._problem(SUMS_FILE, "is missing")
            return
        if data == sums(actual):
            return
        listed: dict[str, str] = {}
        text = data.decode("utf-8", "surrogateescape")
        damaged = 0
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            match = _SUM_LINE.fullmatch(line)
            if match:
                listed[match[2]] = match[1]
            elif (damaged := damaged + 1) <= _MOST_LINES:
                self._problem(SUMS_FILE, f"line {number} is damaged")
        if data != sums(listed) and SUMS_FILE not in self.problems:
            self._problem(SUMS_FILE, "is not in its canonical form (order, spaces or line ends)")
        for path in sorted(listed.keys() | actual.keys()):
            self._compare_sum(path, listed.get(path), actual.get(path))

    def _compare_sum(self, path: str, listed: str | None, actual: str | None) -> None:
        if listed == actual:
            return
        if actual is not None and self.trusted_digests.get(path) == actual:
            what = "lacks" if listed is None else "has another digest for"
            self._problem(SUMS_FILE, f"{what} {path}")
        elif listed is None:
            self._problem(path, f"is not listed in {SUMS_FILE}")
        elif actual is None:
            if path not in self.problems:
                self._problem(path, f"is listed in {SUMS_FILE} but missing")
        else:
            self._problem(path, f"does not match its line in {SUMS_FILE}")

    def _files(self, paths: Iterable[str]) -> tuple[ReleasedFile, ...]:
        return tuple(
            ReleasedFile(path, self.listing.files[path].stat().st_size, self.digests[path])
            for path in sorted(paths)
        )


def _by_folder(items: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Group the entries of paths by first folder and rest; top-level files are left out."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path, value in items.items():
        folder, slash, name = path.partition("/")
        if slash:
            found[folder][name] = value
    return found


def _stray(path: str) -> str:
    if is_our_aside(path.split("/")[0]):
        return "was left by an interrupted build; the next `kiln build` removes it"
    return "does not belong to a release: no signature covers it"


def _difference(stated: str | None, actual: str | None) -> str:
    """Describe how a file differs from the release's statement; "" if it does not."""
    if stated == actual:
        return ""
    if stated is None:
        return f"was added: {RELEASE_BUNDLE} does not list it"
    if actual is None:
        return f"is missing: {RELEASE_BUNDLE} lists it"
    return f"is not the file that {RELEASE_BUNDLE} lists"
