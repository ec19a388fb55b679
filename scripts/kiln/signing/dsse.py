"""Seal statements in sigstore bundles v0.3 (DSSE) with an elliptic curve key, and open them.

A bundle has exactly one valid encoding: canonical JSON with these fields, a newline at its end::

    {"dsseEnvelope": {"payload": base64, "payloadType": ..., "signatures": [{"sig": base64}]},
     "mediaType": ...,
     "verificationMaterial": {"publicKey": {"hint": key id}}}

A reader that ignores unknown fields, or accepts two spellings of the same base64, misses flipped
bits; :func:`open_bundle` refuses any other encoding. The payload is an in-toto Statement v1, in
canonical JSON too.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from kiln.core.digest import canonical_json
from kiln.core.errors import VerificationError
from kiln.core.untrusted import parse_json
from kiln.project import bounds
from kiln.signing import keys
from kiln.signing.keys import SigningKey
from kiln.signing.statement_names import (
    BUNDLE_TYPE,
    LOW_S,
    PAYLOAD_TYPE,
    SIGNATURE_FORM,
    STATEMENT_TYPE,
)

REMEDY = "Do not use these files: fetch the release again, or make it again with `kiln build`."

#: Larger files are not even parsed.
MAX_BYTES = bounds.STATEMENT.most

_BAD_JSON = (ValueError, TypeError)


def seal(statement: Mapping[str, Any], key: SigningKey) -> bytes:
    """Sign ``statement`` with ``key`` and return the bundle; signatures differ at each call.

    Raises:
        SigningKeyError: the key cannot be used.
    """
    payload = canonical_json(statement)
    signature = keys.sign(key, pae(payload))
    return bundle_bytes(payload, signature, {"publicKey": {"hint": key.key_id}})


def open_bundle(data: bytes, public_pem: bytes, name: str = "the bundle") -> dict[str, Any]:
    """Verify a bundle's signature by the trusted key and return its statement.

    Args:
        data: the file's content.
        public_pem: the trusted key.
        name: what messages call the file.

    Raises:
        VerificationError: not a bundle of this kind, not in its canonical encoding, made by another
            key, damaged, or holding something other than an in-toto statement.
        SigningKeyError: ``public_pem`` is not a usable public key.
    """
    trusted = keys.parse_public_key(public_pem)
    bundle = parse_bundle(data, name)
    material = bundle["verificationMaterial"]
    named = material.get("publicKey")
    if set(material) != {"publicKey"} or not isinstance(named, dict) or set(named) != {"hint"}:
        raise bad(name, "does not name the key that it was signed with")
    hint = named["hint"]
    if not isinstance(hint, str) or not re.fullmatch("[0-9a-f]{64}", hint):
        raise bad(name, "is damaged: it names no key")
    if hint != keys.key_id(keys.canonical_public_pem(public_pem)):
        raise bad(name, f"was made with another key (id {hint[:16]}), not with the trusted one")
    payload, signature = envelope_parts(bundle)
    if not keys.signature_holds(trusted, pae(payload), signature):
        raise bad(name, "is not a valid signature of the trusted key")
    statement = statement_in(payload, name)
    if _wants_low_s(statement) and signature != keys.low(signature, trusted.curve):
        raise bad(name, "has its signature in a form other than the original one")
    return statement


def _wants_low_s(statement: Mapping[str, Any]) -> bool:
    """Whether this statement requires its signature in low form, by what was signed.

    Older statements do not require it, and half of their signatures are in the high form.
    """
    predicate = statement.get("predicate")
    return isinstance(predicate, dict) and predicate.get(SIGNATURE_FORM) == LOW_S


def peek_unverified(data: bytes, name: str = "the bundle") -> dict[str, Any]:
    """Return the statement in a bundle WITHOUT verifying any signature.

    Only for code that needs to know what a statement claims; verify before acting on it.

    Raises:
        VerificationError: not a bundle in its canonical encoding, or no statement in it.
    """
    return statement_in(envelope_parts(parse_bundle(data, name))[0], name)


# --- parts, for other kinds of verification material -----------------------------------------


def pae(payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding of the payload.

    https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    """
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def bundle_bytes(payload: bytes, signature: bytes, material: Mapping[str, Any]) -> bytes:
    """Encode a bundle canonically; ``material`` says what to verify it with."""
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }
    return canonical_json(bundle) + b"\n"


def parse_bundle(data: bytes, name: str = "the bundle") -> dict[str, Any]:
    """Parse a bundle's JSON; check encoding and envelope fields, but no signature.

    ``verificationMaterial`` is an object; the caller checks its contents.

    Raises:
        VerificationError: it is not a bundle, or not encoded as :func:`bundle_bytes` does.
    """
    if len(data) > MAX_BYTES:
        raise bad(name, "is too large to be a bundle")
    try:
        bundle = parse_json(data, size=MAX_BYTES)
        canonical = canonical_json(bundle) + b"\n"
    except _BAD_JSON:
        raise bad(name, "is damaged or not a sigstore bundle") from None
    if not isinstance(bundle, dict) or bundle.get("mediaType") != BUNDLE_TYPE:
        raise bad(name, "is not a sigstore bundle v0.3")
    if canonical != data:
        raise bad(name, "is not in its canonical form")
    try:
        _check_fields(bundle)
    except (*_BAD_JSON, KeyError, AttributeError):
        raise bad(name, "is damaged or not a bundle of kiln's kind") from None
    return bundle


def _check_fields(bundle: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, ``KeyError`` or ``TypeError`` if a field is missing, added or wrong."""
    envelope = bundle["dsseEnvelope"]
    (signature,) = envelope["signatures"]
    fields = (
        set(bundle) == {"mediaType", "verificationMaterial", "dsseEnvelope"},
        set(envelope) == {"payload", "payloadType", "signatures"},
        set(signature) == {"sig"},
        envelope["payloadType"] == PAYLOAD_TYPE,
        isinstance(bundle["verificationMaterial"], dict),
    )
    if not all(fields):
        raise ValueError("unknown fields")
    for text in (envelope["payload"], signature["sig"]):
        # Several texts decode to the same bytes: the last character has unused bits.
        if base64.b64encode(base64.b64decode(text, validate=True)).decode() != text:
            raise ValueError("base64 that is not canonical")


def envelope_parts(bundle: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return payload and signature of a bundle that :func:`parse_bundle` accepted."""
    envelope = bundle["dsseEnvelope"]
    return (
        base64.b64decode(envelope["payload"]),
        base64.b64decode(envelope["signatures"][0]["sig"]),
    )


def statement_in(payload: bytes, name: str = "the bundle") -> dict[str, Any]:
    """Parse a payload as an in-toto Statement v1.

    Raises:
        VerificationError: it is not one, or not in canonical JSON.
    """
    try:
        statement = parse_json(payload, size=MAX_BYTES)
        canonical = canonical_json(statement)
    except _BAD_JSON:
        raise bad(name, "holds no statement") from None
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise bad(name, "holds no in-toto statement v1")
    if canonical != payload:
        raise bad(name, "holds a statement that is not in canonical JSON")
    return statement


def payload_of(data: bytes) -> bytes | None:
    """Return the payload of a bundle, unverified; None if it is not a bundle."""
    try:
        return envelope_parts(parse_bundle(data))[0]
    except VerificationError:
        return None


def bad(name: str, what: str) -> VerificationError:
    """Build the error about the bundle ``name``."""
    return VerificationError(f"{name} {what}.", REMEDY)
