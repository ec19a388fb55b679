"""Rotate the signing key, and let others follow with a signed rotation statement.

A rotation statement is an in-toto statement about the new public key's file, signed by the *old*
key. Users who trust the old key can check it (``cosign verify-blob-attestation`` can, too) and
then accept the new one; a trust file names the statement in ``rotated``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.errors import SigningKeyError, VerificationError
from kiln.core.files import disk_guard, sync_folder, write_atomic
from kiln.signing import dsse, keys
from kiln.signing.keys import SigningKey

PREDICATE_TYPE = "https://tflite-kiln.github.io/predicates/key-rotation/v1"
"""Predicate type of the statement; docs/trust.md describes it."""


@dataclass(frozen=True)
class Rotation:
    """The files after a rotation.

    Attributes:
        old: where the key that is no longer used was moved.
        new: the key that signs from now on.
        statement: the rotation statement for others.
    """

    old: SigningKey
    new: SigningKey
    statement: Path


def rotate(path: Path, old_password: bytes | None, new_password: bytes | None) -> Rotation:
    """Replace the key at ``path`` with a new P-256 key; keep the old one beside it.

    At every moment ``path`` is a complete key, the old or the new one. The old one is moved to
    ``<name>-<first 16 digits of its id>.pem``.

    Raises:
        SigningKeyError: there is no usable key at ``path``, or the folder cannot be written.
        DiskFullError: no space left; the old key is still in use.
    """
    old = keys.load_key(path, old_password)
    stem = path.with_suffix("")
    kept = stem.with_name(f"{stem.name}-{old.key_id[:16]}.pem")
    fresh = stem.with_name(f"{stem.name}-new.pem")
    try:
        with disk_guard(path):
            fresh.unlink(missing_ok=True)  # left by a killed rotation
            fresh.with_suffix(".pub").unlink(missing_ok=True)
            keys.create_key(fresh, new_password)
            new = keys.load_key(fresh, new_password)
            made = dsse.seal(rotation_statement(old.public_pem, new.public_pem), old)
            name = f"rotation-{old.key_id[:16]}-{new.key_id[:16]}.sigstore.json"
            statement = path.with_name(name)
            write_atomic(statement, made)
            if not kept.exists():
                kept.hardlink_to(path)
            write_atomic(kept.with_suffix(".pub"), old.public_pem)
            # Remove the public half first: kiln refuses one that does not match its key.
            old.public_path.unlink(missing_ok=True)
            fresh.replace(path)
            write_atomic(path.with_suffix(".pub"), new.public_pem)
            sync_folder(path.parent)
    except OSError as error:
        raise SigningKeyError(
            f"The key {path} cannot be rotated: {error.strerror or error}.",
            "Make its folder writable. The old key is still in place.",
        ) from None
    return Rotation(keys.load_key(kept, old_password), keys.load_key(path, new_password), statement)


def rotation_statement(old_pem: bytes, new_pem: bytes) -> dict[str, Any]:
    """State, for the old key to sign, that the new key replaces it.

    Args:
        old_pem: the canonical PEM of the key that signs the statement.
        new_pem: the canonical PEM of the new key; its digest is the statement's subject.
    """
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "kiln.pub", "digest": {"sha256": keys.key_id(new_pem)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "old": keys.key_id(old_pem),
            "new": keys.key_id(new_pem),
            "publicKey": new_pem.decode("ascii"),
        },
    }


def follow(data: bytes, old_pem: bytes) -> bytes:
    """Verify a rotation statement by the key ``old_pem``; return the new key's canonical PEM.

    Raises:
        VerificationError: it is not such a statement, or not by that key.
    """
    statement = dsse.open_bundle(data, old_pem)
    new_pem = _new_key(statement)
    if statement != rotation_statement(keys.canonical_public_pem(old_pem), new_pem):
        raise VerificationError(
            "A rotation statement does not say which key follows.",
            "Get it again from the key's owner.",
        )
    return new_pem


def _new_key(statement: Mapping[str, Any]) -> bytes:
    try:
        if statement["predicateType"] != PREDICATE_TYPE:
            raise ValueError
        text = str(statement["predicate"]["publicKey"]).encode("ascii")
        return keys.canonical_public_pem(text)
    except (KeyError, TypeError, ValueError, SigningKeyError):
        raise VerificationError(
            "This is not a statement about a key's rotation.",
            "Name the rotation-….sigstore.json that `kiln keys rotate` wrote.",
        ) from None


def fingerprint(public_pem: bytes) -> str:
    """Return SHA-256 of the key's DER form (``openssl pkey -pubin -outform DER``), in hex."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = keys.parse_public_key(public_pem)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


__all__ = ["PREDICATE_TYPE", "Rotation", "fingerprint", "follow", "rotate", "rotation_statement"]
