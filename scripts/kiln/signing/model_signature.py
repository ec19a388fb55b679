"""Sign and verify a folder's files with OpenSSF model signatures.

The ``model_signing`` library makes the signatures (a sigstore bundle v0.3 around a DSSE envelope
with an in-toto statement), so its own command line verifies them. Verification is implemented here
on top of ``cryptography``: it names the wrong file, is stricter than the library (only the
signature itself may be left out of it) and takes 0.1 s where importing the library takes 0.9 s.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kiln.core.digest import sha256_file
from kiln.core.errors import StoreError, VerificationError
from kiln.core.files import aside_of, write_atomic
from kiln.core.listing import Listing, list_tree, printable
from kiln.core.untrusted import MalformedError, parse_json, parse_json_object, read_file
from kiln.project import bounds
from kiln.signing.keyless import KeylessSigner, explaining, identity_token, trust_config_path
from kiln.signing.keys import (
    SigningKey,
    canonical_public_pem,
    default_key_path,
    key_id,
    load_or_create_key,
    load_public_key,
    low,
    parse_public_key,
    signature_holds,
)
from kiln.signing.statement_names import BUNDLE_TYPE, PAYLOAD_TYPE, STATEMENT_TYPE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve, EllipticCurvePublicKey

__all__ = [
    "SIGNATURE_FILE",
    "SignedFolder",
    "SigningKey",
    "compare",
    "default_key_path",
    "folder_of",
    "load_or_create_key",
    "load_public_key",
    "read_signature",
    "sign_folder",
    "verify_folder",
]

SIGNATURE_FILE = "model.sig"

_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_REMEDY = "Do not use these files: fetch the release again, or make it again with `kiln build`."


@dataclass(frozen=True)
class SignedFolder:
    """The contents of a valid signature.

    Attributes:
        name: the folder's name when it was signed.
        digests: relative POSIX path -> SHA-256, of every file but the signature itself.
    """

    name: str
    digests: Mapping[str, str]


def sign_folder(folder: Path, key: SigningKey | KeylessSigner) -> None:
    """Sign every file in ``folder`` and write ``model.sig`` there, in one step.

    Raises:
        StoreError: the folder holds something that a signature cannot cover (a symbolic link, an
            empty folder), or cannot be read.
        DiskFullError: no space left for the signature.
        SigningKeyError, SourceUnavailableError: without a key: see :class:`KeylessSigner`.
    """
    try:
        listing = list_tree(folder)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be signed: {error.strerror or error}.", "Check the path."
        ) from None
    for path, problem in listing.odd.items():
        raise StoreError(
            f"{folder} cannot be signed: {printable(path)} {problem}.", "Remove it and build again."
        )
    # Imported here: it takes most of a second. The library is untyped, so it is imported by name.
    hashing: Any = import_module("model_signing.hashing")
    what = hashing.Config().set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)
    # Beside the folder and not in /tmp: leftovers of a killed process are removed from here.
    made = aside_of(folder)
    try:
        with _library_signer(key) as signer:
            signer.set_hashing_config(what).sign(folder, made)
        data = made.read_bytes()
    finally:
        made.unlink(missing_ok=True)
    if isinstance(key, SigningKey):
        data = _in_low_form(data, parse_public_key(key.public_pem).curve)
        signed = read_signature(data, key.public_pem)
    else:
        signed = folder_of(_payload_of(data))
    if set(signed.digests) != set(listing.files) - {SIGNATURE_FILE}:
        raise StoreError(
            f"{folder} changed while it was being signed.", "Nothing else may write there."
        )
    write_atomic(folder / SIGNATURE_FILE, data)


@contextlib.contextmanager
def _library_signer(key: SigningKey | KeylessSigner) -> Iterator[Any]:
    """Configure the library to sign with ``key``."""
    signing: Any = import_module("model_signing.signing")
    if isinstance(key, SigningKey):
        with key.as_file() as (private, password):
            yield signing.Config().use_elliptic_key_signer(private_key=private, password=password)
        return
    with explaining():
        yield signing.Config().use_sigstore_signer(
            identity_token=identity_token(), trust_config=trust_config_path()
        )


def _in_low_form(data: bytes, curve: EllipticCurve) -> bytes:
    """Return the library's bundle with its signature in :func:`~kiln.signing.keys.low` form."""
    (signature,) = parse_json(data)["dsseEnvelope"]["signatures"]
    again = base64.b64encode(low(base64.b64decode(signature["sig"]), curve))
    return data.replace(signature["sig"].encode(), again, 1)


def _payload_of(data: bytes) -> Any:
    """Return the statement of a bundle that was just made, unverified."""
    return parse_json(base64.b64decode(parse_json(data)["dsseEnvelope"]["payload"]))


def verify_folder(folder: Path, public_pem: bytes) -> None:
    """Check that ``folder`` holds exactly the files that its ``model.sig`` covers.

    Raises:
        VerificationError: no or no valid signature by this key, or a file is changed, missing,
            added, or a link; every such file is named.
        SigningKeyError: ``public_pem`` is not a usable public key.
    """
    try:
        listing = list_tree(folder)
        data = read_file(folder / SIGNATURE_FILE, bounds.MODEL_SIGNATURE.most)
        actual = {
            path: sha256_file(file)
            for path, file in listing.files.items()
            if path != SIGNATURE_FILE
        }
    except OSError as error:
        name = error.filename or folder
        raise VerificationError(
            f"{folder} cannot be verified: {name}: {error.strerror or error}.", _REMEDY
        ) from None
    except MalformedError as error:
        raise _bad(str(error)) from None
    problems = compare(read_signature(data, public_pem), actual, listing)
    if problems:
        lines = "".join(f"\n  {printable(path)}: {what}" for path, what in sorted(problems.items()))
        raise VerificationError(f"{folder} is not what was signed:{lines}", _REMEDY)


def compare(signed: SignedFolder, actual: Mapping[str, str], listing: Listing) -> dict[str, str]:
    """Compare a signature with a folder: path -> what is wrong with it.

    Args:
        signed: the contents of the signature.
        actual: relative path -> SHA-256 of the folder's files without the signature.
        listing: the same folder's listing, to find what is neither file nor folder.
    """
    problems = dict(listing.odd)
    for path in sorted(signed.digests.keys() | actual.keys()):
        if path not in actual:
            problems.setdefault(path, "is missing")
        elif path not in signed.digests:
            problems.setdefault(path, "was added: the signature does not cover it")
        elif actual[path] != signed.digests[path]:
            problems.setdefault(path, "was changed: its digest is not the signed one")
    return problems


def read_signature(data: bytes, public_pem: bytes) -> SignedFolder:
    """Verify a sigstore bundle against a public key and return the files it covers.

    Args:
        data: the content of a ``model.sig``.
        public_pem: the trusted key; it must have made the signature.

    Raises:
        VerificationError: not a bundle of the supported kind, made by another key, damaged, or
            stating something other than the digests of a folder's files.
        SigningKeyError: ``public_pem`` is not a usable public key.
    """
    trusted = parse_public_key(public_pem)
    try:
        bundle = parse_json_object(data, size=bounds.MODEL_SIGNATURE.most)
        if bundle["mediaType"] != BUNDLE_TYPE:
            raise _bad("is not a sigstore bundle v0.3")
        _check_hint(bundle["verificationMaterial"]["publicKey"]["hint"], public_pem)
        statement = _signed_payload(bundle["dsseEnvelope"], trusted)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise _bad("is damaged or not a model signature") from None
    return folder_of(statement)


def folder_of(statement: Mapping[str, Any]) -> SignedFolder:
    """Read a verified statement about a folder, and check that its form is a model signature's.

    Raises:
        VerificationError: it states something other than the digests of a folder's files.
    """
    try:
        return _folder_of(statement)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise _bad("is damaged or not a model signature") from None


def _check_hint(hint: object, public_pem: bytes) -> None:
    wanted = key_id(canonical_public_pem(public_pem))
    if not isinstance(hint, str) or not re.fullmatch("[0-9a-f]{64}", hint):
        raise _bad("is damaged or not a model signature")
    if hint != wanted:
        raise _bad(f"was made with another key (id {hint[:16]}), not with the trusted one")


def _signed_payload(envelope: Mapping[str, Any], trusted: EllipticCurvePublicKey) -> Any:
    """Verify the envelope's signature and return its JSON payload."""
    payload = base64.b64decode(envelope["payload"], validate=True)
    (signature,) = envelope["signatures"]
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise _bad("signs something other than an in-toto statement")
    # DSSE's pre-authentication encoding, https://github.com/secure-systems-lab/dsse.
    header = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode()
    if not signature_holds(
        trusted, header + payload, base64.b64decode(signature["sig"], validate=True)
    ):
        raise _bad("is not a valid signature of the trusted key")
    return parse_json_object(payload, size=bounds.MODEL_SIGNATURE.most)


def _folder_of(statement: Mapping[str, Any]) -> SignedFolder:
    (subject,) = statement["subject"]
    predicate = statement["predicate"]
    how = predicate["serialization"]
    if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, _PREDICATE_TYPE):
        raise _bad("states something other than a model signature")
    if (how["method"], how["hash_type"], how["allow_symlinks"]) != ("files", "sha256", False):
        raise _bad("does not list plain files by SHA-256")
    # Files that a signature leaves out could be changed unnoticed.
    if left_out := set(how.get("ignore_paths", [])) - {SIGNATURE_FILE}:
        raise _bad(f"leaves out {', '.join(sorted(map(str, left_out)))}")
    digests: dict[str, str] = {}
    together = hashlib.sha256()
    for item in predicate["resources"]:
        name, digest = item["name"], item["digest"]
        if item["algorithm"] != "sha256" or not re.fullmatch("[0-9a-f]{64}", digest):
            raise _bad("does not list plain files by SHA-256")
        if name in digests or str(PurePosixPath(name)) != name or name.startswith("/"):
            raise _bad("lists a file twice or under an impossible name")
        digests[name] = digest
        together.update(bytes.fromhex(digest))
    if together.hexdigest() != subject["digest"]["sha256"]:
        raise _bad("contradicts itself: its total digest does not match its files")
    return SignedFolder(str(subject["name"]), digests)


def _bad(what: str) -> VerificationError:
    return VerificationError(f"{SIGNATURE_FILE} {what}.", _REMEDY)
