"""Decide which keys and identities to trust with what, and what they must have stated.

A :class:`Trust` opens bundles and model signatures. It returns the statement only if a trusted
signer signed it and may sign that kind of thing for that model. Trusting one key with everything
is the simple case; :mod:`kiln.signing.trust_file` reads finer rules from a trust file.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.core.errors import SigningKeyError, VerificationError
from kiln.core.untrusted import parse_json
from kiln.project import bounds
from kiln.signing import dsse, keys, model_signature
from kiln.signing.keyless import is_keyless
from kiln.signing.model_signature import SIGNATURE_FILE, SignedFolder
from kiln.signing.statement_names import TEST_RESULT_SUFFIX

if TYPE_CHECKING:
    from kiln.signing.keyless import Identity, KeylessVerifier

RELEASE, MODEL, PROVENANCE, TEST_RESULT = "release", "model", "provenance", "test-result"
STAGE_RESULT = "stage-result"
ROLES = (RELEASE, MODEL, PROVENANCE, TEST_RESULT, STAGE_RESULT)
"""What can be signed: a whole release, a model's folder, a provenance, a test result, and what a
stage made (in a cache that machines share)."""

_REMEDY = "Do not use these files unless you know and trust the signer."


@dataclass(frozen=True)
class Signer:
    """A trusted signer: a key or an identity.

    Attributes:
        name: what to call them.
        public_pem: canonical PEM of their key; b"" for an identity, and for a key of which only
            the id is known.
        key_id: of the key; "" for an identity.
        identity: pattern of what a certificate must name (``*`` stands for anything).
        issuer: the identity's issuer, exactly.
        models: patterns of the models that they may sign for.
        may: which of :data:`ROLES` they may sign.
    """

    name: str
    public_pem: bytes = b""
    key_id: str = ""
    identity: str = ""
    issuer: str = ""
    models: tuple[str, ...] = ("*",)
    may: tuple[str, ...] = ROLES

    def lacks(self, role: str, model: str | None) -> str:
        """Return why they may not sign this; empty if they may."""
        if role not in self.may:
            return f"may not sign a {role}" if role != MODEL else "may not sign a model's folder"
        if model is not None and not any(fnmatch.fnmatchcase(model, one) for one in self.models):
            return f"may not sign for the model {model!r}"
        return ""


@dataclass(frozen=True)
class Requirements:
    """What provenance and test results must state, besides being signed.

    Attributes:
        clean_git: the sources must have been committed.
        test_result: ``PASSED``, or ``WARNED`` for that or better; empty for anything.
        repository: pattern of the repository's address.
        images: identities (64 hex digits) of the sealed images that may have made the file.
        builders: patterns of allowed builders.
    """

    clean_git: bool = False
    test_result: str = ""
    repository: str = ""
    images: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()

    def unmet_by_provenance(self, statement: Mapping[str, Any]) -> list[str]:
        """List the requirements that a provenance misses, phrased to follow the file's name."""
        if not (self.clean_git or self.repository or self.images or self.builders):
            return []
        try:
            predicate = statement["predicate"]
            parts = {
                str(item["name"]): item
                for item in predicate["buildDefinition"]["resolvedDependencies"]
            }
            builder = str(predicate["runDetails"]["builder"]["id"])
        except (KeyError, TypeError):
            return ["says nothing about sources and builder"]
        found = []
        repository = parts.get("repository", {})
        if self.clean_git and part(repository, "annotations", "dirty") is not False:
            found.append(
                "was made from sources that were not committed"
                if repository
                else "does not say from which commit it was made"
            )
        uri = str(repository.get("uri", "")).removeprefix("git+")
        if self.repository and not fnmatch.fnmatchcase(uri, self.repository.removeprefix("git+")):
            found.append(f"comes from the repository {uri or 'unknown'}, not {self.repository}")
        images = [
            str(part(item, "digest", "sha256"))
            for name, item in parts.items()
            if name.startswith("image/")
        ]
        if self.images and (not images or not set(images) <= set(self.images)):
            found.append(f"was made in the image {', '.join(images) or 'unknown'}")
        if self.builders and not any(fnmatch.fnmatchcase(builder, one) for one in self.builders):
            found.append(f"was built by {builder}")
        return found

    def unmet_by_test_result(self, statement: Mapping[str, Any] | None) -> list[str]:
        """List the requirements that a test result misses; None is a file without one."""
        if not self.test_result:
            return []
        if statement is None:
            return ["has no test result"]
        result = part(statement, "predicate", "result")
        enough = ("PASSED",) if self.test_result == "PASSED" else ("PASSED", "WARNED")
        return [] if result in enough else [f"has the test result {result}"]


def part(item: object, *path: str) -> Any:
    """Return the value at ``path`` below ``item``; None where there is none."""
    for key in path:
        item = item.get(key) if isinstance(item, Mapping) else None
    return item


@dataclass
class Trust:
    """The trusted signers and what they must have stated.

    Attributes:
        signers: tried in this order.
        requirements: what must be stated.
        trusted_root: file with the keys behind identities; by default sigstore's public instance.
        used: the names of the signers whose signatures were valid, in order of first use.
    """

    signers: tuple[Signer, ...]
    requirements: Requirements = field(default_factory=Requirements)
    trusted_root: Path | None = None
    used: list[str] = field(default_factory=list)
    _keyless: KeylessVerifier | None = None

    def offer_key(self, pem: bytes) -> None:
        """Accept a key that comes with a release, for signers known by key id only."""
        try:
            canonical = keys.canonical_public_pem(pem)
        except SigningKeyError:
            return
        known = keys.key_id(canonical)
        self.signers = tuple(
            _with_key(one, canonical) if one.key_id == known and not one.public_pem else one
            for one in self.signers
        )

    def knows_key(self, pem: bytes) -> bool:
        """Whether this is the canonical PEM of a trusted key."""
        return any(one.public_pem == pem for one in self.signers if one.public_pem)

    def by_key(self) -> bool:
        """Whether only keys are trusted, so that a release must bring one."""
        return not any(one.identity for one in self.signers)

    def open(
        self, data: bytes, role: str, model: str | None = None, name: str = "the bundle"
    ) -> dict[str, Any]:
        """Return the statement in a bundle if an authorised signer made it.

        Args:
            data: the bundle.
            role: which of :data:`ROLES` it has.
            model: the model it is about; None for a whole release.
            name: what messages call it.

        Raises:
            VerificationError: it is damaged, or its signer is not trusted with this.
        """
        if is_keyless(data):
            statement, who = self._verifier().open(data, name)
            self._admit(self._by_identity(who, name), role, model, name)
            return statement
        signers = self._by_key(data, name)
        statement = dsse.open_bundle(data, signers[0].public_pem, name)
        self._admit(signers, role, model, name)
        return statement

    def open_model_signature(self, data: bytes, model: str) -> SignedFolder:
        """Return what a ``model.sig`` covers if an authorised signer made it; see :meth:`open`."""
        if is_keyless(data):
            statement, who = self._verifier().open(data, SIGNATURE_FILE, canonical=False)
            self._admit(self._by_identity(who, SIGNATURE_FILE), MODEL, model, SIGNATURE_FILE)
            return model_signature.folder_of(statement)
        signers = self._by_key(data, SIGNATURE_FILE)
        signed = model_signature.read_signature(data, signers[0].public_pem)
        self._admit(signers, MODEL, model, SIGNATURE_FILE)
        return signed

    def _admit(self, signers: Iterable[Signer], role: str, model: str | None, name: str) -> None:
        why = ""
        for signer in signers:
            why = signer.lacks(role, model)
            if not why:
                if signer.name not in self.used:
                    self.used.append(signer.name)
                return
            why = f"is signed by {signer.name}, who {why}"
        raise VerificationError(f"{name} {why}.", _REMEDY)

    def _by_key(self, data: bytes, name: str) -> list[Signer]:
        """List possible signers by the key hint; the signature itself is checked later."""
        known = [one for one in self.signers if one.key_id]
        if not known:
            raise VerificationError(
                f"{name} is signed with a key, and only identities are trusted.",
                "Name the trusted key with --key, or in the trust file.",
            )
        hint = _hint_of(data)
        # If no signer matches, the signature check reports why: another key, or damage.
        found = [one for one in known if one.key_id == hint] or known
        with_key = [one for one in found if one.public_pem]
        if not with_key:
            raise VerificationError(
                f"{name} is signed by {found[0].name}, whose public key is missing.",
                "Name its file with `key` in the trust file.",
            )
        return with_key

    def _by_identity(self, who: Identity, name: str) -> list[Signer]:
        found = [
            one
            for one in self.signers
            if one.identity
            and one.issuer == who.issuer
            and fnmatch.fnmatchcase(who.subject, one.identity)
        ]
        if not found:
            raise VerificationError(
                f"{name} is signed by {who.subject} (says {who.issuer}), who is not trusted.",
                _REMEDY,
            )
        return found

    def _verifier(self) -> KeylessVerifier:
        from kiln.signing.keyless import KeylessVerifier

        if self._keyless is None:
            self._keyless = KeylessVerifier(self.trusted_root)
        return self._keyless


@dataclass(frozen=True)
class ModelTrust:
    """Opens the bundles of one model; a bundle's file name gives its role."""

    trust: Trust
    model: str
    public_pem: bytes | None = None

    def open_bundle(self, data: bytes, name: str = "the bundle") -> dict[str, Any]:
        """See :meth:`Trust.open`."""
        role = TEST_RESULT if name.endswith(TEST_RESULT_SUFFIX) else PROVENANCE
        return self.trust.open(data, role, self.model, name)

    def read_signature(self, data: bytes) -> SignedFolder:
        """See :meth:`Trust.open_model_signature`."""
        return self.trust.open_model_signature(data, self.model)


def trust_in_key(public_pem: bytes) -> Trust:
    """Trust one key with everything.

    Raises:
        SigningKeyError: ``public_pem`` is not a usable public key.
    """
    canonical = keys.canonical_public_pem(public_pem)
    known = keys.key_id(canonical)
    return Trust((Signer(f"key {known[:16]}", canonical, known),))


def trust_in_identity(identity: str, issuer: str, trusted_root: Path | None = None) -> Trust:
    """Trust one certificate identity with everything."""
    signer = Signer(f"{identity} ({issuer})", identity=identity, issuer=issuer)
    return Trust((signer,), trusted_root=trusted_root)


def _with_key(signer: Signer, pem: bytes) -> Signer:
    return replace(signer, public_pem=pem)


def _hint_of(data: bytes) -> str:
    try:
        bundle = parse_json(data, size=bounds.STATEMENT.most)
        return str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError):
        return ""
