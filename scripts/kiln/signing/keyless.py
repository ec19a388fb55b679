"""Sign and verify by identity instead of a long-lived key, through sigstore.

A CI proves its identity with an OpenID Connect token; a certificate authority (Fulcio) binds that
identity to a key that lives for minutes, and a public log (Rekor) witnesses the signature's time.
The ``sigstore`` library does all of it, here for DSSE statements. Certificate, log entry and proof
travel inside the bundle, so verification needs no network, only the *trusted root*: the keys of
the authority and the logs. Bits of a bundle that the library leaves unchecked must have their one
valid form; anything else is refused.

``sigstore`` costs most of a second to import and is imported only here.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.core.digest import canonical_json
from kiln.core.errors import SigningKeyError, SourceUnavailableError, UsageError, VerificationError
from kiln.core.untrusted import parse_json, parse_json_object, read_named
from kiln.project import bounds

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.sign import Signer, SigningContext
    from sigstore.verify import Verifier

TOKEN_VARIABLE = "SIGSTORE_ID_TOKEN"  # noqa: S105 (a name)
CONFIG_VARIABLE = "KILN_SIGSTORE_CONFIG"

_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_REMEDY = "Do not use these files: fetch the release again, from the place its maker names."
_RENEW = 240  # seconds; certificates live for ten minutes, a CI's tokens for five and more


@dataclass(frozen=True)
class Identity:
    """Who a certificate says signed.

    Attributes:
        subject: an address of a workflow, or an e-mail address.
        issuer: the OpenID Connect issuer that confirmed it.
    """

    subject: str
    issuer: str


def is_keyless(data: bytes) -> bool:
    """Whether a bundle brings a certificate; nothing is verified."""
    try:
        return "certificate" in _parsed(data)["verificationMaterial"]
    except (ValueError, KeyError, TypeError):
        return False


def _parsed(data: bytes | str) -> dict[str, Any]:
    return parse_json_object(data, size=bounds.STATEMENT.most)


class KeylessVerifier:
    """Verifies bundles against one trusted root.

    Args:
        trusted_root: a ``trusted_root.json``; by default the public instance's, from the copy
            that the library brings. The network is never used.

    Raises:
        VerificationError: the trusted root cannot be read.
    """

    def __init__(self, trusted_root: Path | None = None) -> None:
        from sigstore.errors import Error
        from sigstore.models import ClientTrustConfig, TrustedRoot
        from sigstore.verify import Verifier

        # The library warns about offline use, which is intended here.
        logging.getLogger("sigstore._internal.tuf").setLevel(logging.ERROR)
        try:
            if trusted_root is None:
                root = ClientTrustConfig.production(offline=True).trusted_root
            else:
                # Bounds checked here; the library has none.
                parse_json(read_named(trusted_root, bounds.TRUSTED_ROOT.most))
                root = TrustedRoot.from_file(str(trusted_root))
            self._verifier: Verifier = Verifier(trusted_root=root)
        except (Error, OSError, ValueError) as error:
            name = trusted_root or "sigstore's own"
            why = error.strerror if isinstance(error, OSError) else None
            raise VerificationError(
                f"The trusted root ({name}) cannot be used: {why or 'it is damaged'}.",
                "Name a trusted_root.json with --trusted-root.",
            ) from None

    def open(
        self, data: bytes, name: str = "the bundle", *, canonical: bool = True
    ) -> tuple[dict[str, Any], Identity]:
        """Verify a bundle; return its statement and the identity that signed it.

        The caller decides whether to trust that identity.

        Args:
            data: the bundle.
            name: what messages call it.
            canonical: refuse an encoding other than :meth:`KeylessSigner.seal`'s.

        Raises:
            VerificationError: not a bundle, or one of its proofs is invalid.
        """
        from sigstore.models import Bundle

        who = _Recorder()
        try:
            plain = _parsed(data)  # bounds checked here; the library has none
            bundle = Bundle.from_json(data)
            kind, payload = self._verifier.verify_dsse(bundle, who)
            _refuse_unchecked(plain, bundle)
            if canonical and data != canonical_json(plain) + b"\n":
                raise ValueError("the bundle is not in its canonical form")
            statement = _parsed(payload)
        except Exception as error:
            # Damaged certificates and entries make the libraries below raise arbitrary
            # exceptions; each of them means that the signature is invalid.
            why = " ".join(str(error).split())[:200]
            raise VerificationError(
                f"{name} is not a valid signature by an identity: {why}.", _REMEDY
            ) from None
        if kind != _PAYLOAD_TYPE or not isinstance(statement, dict) or who.identity is None:
            raise VerificationError(f"{name} holds no in-toto statement.", _REMEDY)
        return statement, who.identity


class _Recorder:
    """A policy for the library that records who signed, after all proofs were verified."""

    identity: Identity | None = None

    def verify(self, cert: Certificate) -> None:
        self.identity = Identity(_subject_of(cert), _issuer_of(cert))


def _subject_of(cert: Certificate) -> str:
    from cryptography.x509 import RFC822Name, SubjectAlternativeName, UniformResourceIdentifier

    names = cert.extensions.get_extension_for_class(SubjectAlternativeName).value
    (name,) = names
    if not isinstance(name, RFC822Name | UniformResourceIdentifier):
        raise ValueError("the certificate names neither an address nor a workflow")
    return name.value


def _issuer_of(cert: Certificate) -> str:
    from cryptography.x509 import ExtensionNotFound, ObjectIdentifier, UnrecognizedExtension

    # https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md: .8 is a DER UTF8String.
    try:
        found = cert.extensions.get_extension_for_oid(ObjectIdentifier("1.3.6.1.4.1.57264.1.8"))
        assert isinstance(found.value, UnrecognizedExtension)
        der = found.value.value
        if der[:1] != b"\x0c" or len(der) != der[1] + 2 or der[1] > 127:
            raise ValueError("the certificate's issuer is not in a known form")
        return der[2:].decode("utf-8")
    except ExtensionNotFound:
        found = cert.extensions.get_extension_for_oid(ObjectIdentifier("1.3.6.1.4.1.57264.1.1"))
        assert isinstance(found.value, UnrecognizedExtension)
        return found.value.value.decode("utf-8")


def _refuse_unchecked(plain: Mapping[str, Any], bundle: Bundle) -> None:
    """Refuse a bundle in which anything the library does not check deviates from its one form."""
    from sigstore._internal.rekor.checkpoint import SignedCheckpoint

    if canonical_json(plain) != canonical_json(_parsed(bundle.to_json())):
        raise ValueError("the bundle holds an unverified field")
    if plain["mediaType"] != _BUNDLE_TYPE:
        raise ValueError("the bundle is not of version 0.3")
    (signature,) = plain["dsseEnvelope"]["signatures"]
    if signature.get("keyid"):
        raise ValueError("the bundle names a key that is not verified")
    entry = bundle.log_entry._inner
    proof = entry.inclusion_proof
    if proof.checkpoint is None:
        raise ValueError("the log entry has no signed checkpoint")
    envelope = proof.checkpoint.envelope
    checkpoint = SignedCheckpoint.from_text(envelope)
    if checkpoint.checkpoint.log_size != proof.tree_size:
        raise ValueError("the log's size is not the signed one")
    note, _, lines = envelope.partition("\n\n")
    name, _, _ = note.partition("\n")
    signer = name.split(" - ")[0]
    if len(checkpoint.signed_note.signatures) != 1:
        raise ValueError("the checkpoint has signatures that are not verified")
    own = checkpoint.signed_note.signatures[0]
    packed = own.sig_hash + base64.b64decode(own.signature)
    if lines != f"\u2014 {signer} {base64.b64encode(packed).decode()}\n":
        raise ValueError("the log's signature is not in its canonical form")
    if entry.inclusion_promise is None and (
        entry.integrated_time or entry.log_index != proof.log_index
    ):
        raise ValueError("the log's entry has an unverified field")


def _canonical(bundle: Bundle) -> bytes:
    """Encode a fresh bundle as one canonical line of JSON, without other witnesses' signatures."""
    plain = _parsed(bundle.to_json())
    proof = plain["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    note, _, lines = proof["checkpoint"]["envelope"].partition("\n\n")
    signer = note.partition("\n")[0].split(" - ")[0]
    own = [line for line in lines.splitlines() if line.startswith(f"\u2014 {signer} ")]
    proof["checkpoint"]["envelope"] = f"{note}\n\n{own[0]}\n" if own else f"{note}\n\n{lines}"
    return canonical_json(plain) + b"\n"


class KeylessSigner:
    """Signs with the identity that the environment proves.

    ``SIGSTORE_ID_TOKEN`` holds a token; otherwise the CI is asked for one (GitHub Actions with
    ``id-token: write``, and others that sigstore supports). ``KILN_SIGSTORE_CONFIG`` names the
    client trust configuration of a private instance; by default the public one is used.
    """

    def __init__(self) -> None:
        self._context: SigningContext | None = None
        self._signer: Signer | None = None
        self._made = 0.0

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """Sign and log ``statement``; return the bundle.

        Raises:
            SigningKeyError: there is no identity to sign with, or it was not accepted.
            SourceUnavailableError: an authority or a log does not answer.
        """
        from sigstore.dsse import Statement

        with explaining():
            return _canonical(self._current().sign_dsse(Statement(canonical_json(statement))))

    def _current(self) -> Signer:
        from sigstore.oidc import IdentityToken
        from sigstore.sign import Signer, SigningContext

        if self._context is None:
            self._context = SigningContext.from_trust_config(_trust_config())
        if self._signer is None or time.monotonic() - self._made > _RENEW:
            self._signer = Signer(IdentityToken(identity_token()), self._context)
            self._made = time.monotonic()
        return self._signer


def identity_token() -> str:
    """Get a fresh identity token from the environment.

    Raises:
        SigningKeyError: the environment proves no identity.
    """
    from sigstore.oidc import IdentityError, detect_credential

    token = os.environ.get(TOKEN_VARIABLE, "")
    why = ""
    if not token:
        try:
            token = detect_credential() or ""
        except IdentityError as error:
            why = f" ({' '.join(str(error).split())[:120]})"
    if not token:
        raise SigningKeyError(
            f"There is no identity to sign with{why}.",
            f"Give the workflow `id-token: write`, or put a token into {TOKEN_VARIABLE}; "
            "or sign with a key.",
        )
    return token


def trust_config_path() -> Path | None:
    """Return the file that ``KILN_SIGSTORE_CONFIG`` names, if set."""
    value = os.environ.get(CONFIG_VARIABLE, "")
    return Path(value).expanduser() if value else None


def _trust_config() -> ClientTrustConfig:
    from sigstore.models import ClientTrustConfig

    path = trust_config_path()
    if path is None:
        return ClientTrustConfig.production()
    try:
        data = read_named(path, bounds.TRUSTED_ROOT.most)
        parse_json(data)  # bounds checked here; the library has none
        return ClientTrustConfig.from_json(data.decode("utf-8"))
    except (OSError, ValueError):
        raise UsageError(
            f"{path} is not a sigstore client trust configuration.", f"Correct {CONFIG_VARIABLE}."
        ) from None


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    """Convert what the library raises while signing to kiln's errors."""
    import requests
    from sigstore._internal.fulcio.client import FulcioClientError
    from sigstore._internal.rekor import RekorClientError
    from sigstore.errors import Error
    from sigstore.oidc import ExpiredIdentity, IdentityError

    try:
        yield
    except (IdentityError, ExpiredIdentity, FulcioClientError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise SigningKeyError(
            f"The identity to sign with is not accepted: {why}.",
            "Run again with a fresh token, or sign with a key.",
        ) from error
    except (requests.RequestException, RekorClientError, Error) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceUnavailableError(
            f"Signing without a key failed: {why}.",
            "Run again when the certificate authority and the log answer, or sign with a key.",
        ) from error
