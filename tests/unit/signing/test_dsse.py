"""Bundles: what was sealed opens, and nothing else does."""

from __future__ import annotations

import base64
import json
import string
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kiln.core.digest import canonical_json
from kiln.core.errors import SigningKeyError, VerificationError
from kiln.signing import dsse, keys
from kiln.signing.keys import SigningKey
from kiln.signing.statement_names import BUNDLE_TYPE, PAYLOAD_TYPE, STATEMENT_TYPE

STATEMENT = {
    "_type": STATEMENT_TYPE,
    "subject": [{"name": "a", "digest": {"sha256": "0" * 64}}],
    "predicateType": "https://example.com/p",
    "predicate": {},
}


def refused(data: bytes, key: SigningKey) -> str:
    with pytest.raises(VerificationError) as caught:
        dsse.open_bundle(data, key.public_pem, "x.json")
    assert caught.value.message.startswith("x.json ")
    assert caught.value.remedy
    return caught.value.message


def changed(data: bytes, change: Any) -> bytes:
    bundle = json.loads(data)
    change(bundle)
    return canonical_json(bundle) + b"\n"


def test_what_was_sealed_opens(key: SigningKey) -> None:
    data = dsse.seal(STATEMENT, key)
    assert dsse.open_bundle(data, key.public_pem) == STATEMENT
    assert dsse.peek_unverified(data) == STATEMENT
    assert dsse.payload_of(data) == canonical_json(STATEMENT)
    bundle = json.loads(data)
    assert bundle["mediaType"] == BUNDLE_TYPE
    assert bundle["verificationMaterial"] == {"publicKey": {"hint": key.key_id}}
    assert bundle["dsseEnvelope"]["payloadType"] == PAYLOAD_TYPE
    assert data == canonical_json(bundle) + b"\n"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_each_curve_with_its_digest(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    path = tmp_path / "k.pem"
    pem = ec.generate_private_key(curve).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.write_bytes(pem)
    path.chmod(0o600)
    own = keys.load_or_create_key(path)
    assert dsse.open_bundle(dsse.seal(STATEMENT, own), own.public_pem) == STATEMENT


def test_any_flipped_bit_is_seen(key: SigningKey) -> None:
    data = dsse.seal(STATEMENT, key)
    for index in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[index] ^= 1 << bit
            refused(bytes(flipped), key)


def test_any_cut_and_any_addition_is_seen(key: SigningKey) -> None:
    data = dsse.seal(STATEMENT, key)
    for length in range(0, len(data), 7):
        refused(data[:length], key)
    for more in (b"\n", b" ", b"{}", b"\0"):
        refused(data + more, key)
        refused(more + data, key)


def test_another_key_is_named(key: SigningKey, tmp_path: Path) -> None:
    other = keys.load_or_create_key(tmp_path / "other.pem")
    assert other.key_id[:16] in refused(dsse.seal(STATEMENT, other), key)
    # Its hint changed to the trusted key's: still not that key's signature.
    forged = changed(
        dsse.seal(STATEMENT, other),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].update(hint=key.key_id),
    )
    assert "not a valid signature" in refused(forged, key)


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: bundle.update(more=1),
        lambda bundle: bundle["dsseEnvelope"].update(more=1),
        lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(keyid=""),
        lambda bundle: bundle["dsseEnvelope"]["signatures"].append({"sig": ""}),
        lambda bundle: bundle["dsseEnvelope"]["signatures"].clear(),
        lambda bundle: bundle["verificationMaterial"].update(tlogEntries=[]),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].update(rawBytes=""),
        lambda bundle: bundle["verificationMaterial"].pop("publicKey"),
        lambda bundle: bundle["verificationMaterial"]["publicKey"].update(hint=7),
        lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain"),
        lambda bundle: bundle["dsseEnvelope"].update(payload=None),
        lambda bundle: bundle.pop("dsseEnvelope"),
        lambda bundle: bundle.update(verificationMaterial=[]),
        lambda bundle: bundle.update(mediaType="application/json"),
    ],
)
def test_other_fields_are_refused(change: Any, key: SigningKey) -> None:
    refused(changed(dsse.seal(STATEMENT, key), change), key)


def test_another_spelling_is_refused(key: SigningKey) -> None:
    data = dsse.seal(STATEMENT, key)
    assert "canonical form" in refused(json.dumps(json.loads(data)).encode(), key)
    refused(data.replace(b"{", b'{"mediaType":"x",', 1), key)

    def other_base64(bundle: Any) -> None:
        text = bundle["dsseEnvelope"]["payload"]
        for last in f"{string.ascii_letters}{string.digits}+/":
            other = text.rstrip("=")[:-1] + last + "=" * text.count("=")
            if other != text and base64.b64decode(other) == base64.b64decode(text):
                bundle["dsseEnvelope"]["payload"] = other
                return
        raise AssertionError("this payload's length leaves no unused bits")

    for filler in range(3):  # one of three lengths has no unused bits
        statement = {**STATEMENT, "predicate": {"x": "x" * filler}}
        sealed = dsse.seal(statement, key)
        if b"=" in json.loads(sealed)["dsseEnvelope"]["payload"].encode():
            refused(changed(sealed, other_base64), key)


def test_a_statement_is_needed_inside(key: SigningKey) -> None:
    for content in ([], "text", {"_type": "https://example.com/other"}, {}):
        refused(dsse.seal(content, key), key)  # type: ignore[arg-type]
    loose = json.dumps(STATEMENT).encode()  # valid, signed, and not in canonical JSON
    signature = keys.sign(key, dsse.pae(loose))
    data = dsse.bundle_bytes(loose, signature, {"publicKey": {"hint": key.key_id}})
    assert "canonical JSON" in refused(data, key)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_junk_is_refused_without_a_traceback(key: SigningKey, data: bytes) -> None:
    refused(data, key)
    with pytest.raises(VerificationError):
        dsse.peek_unverified(data)
    assert dsse.payload_of(data) is None


def test_deep_and_huge_junk(key: SigningKey) -> None:
    refused(b"[" * 100_000, key)
    refused(b" " * (dsse.MAX_BYTES + 1), key)


def test_a_key_that_was_exchanged(tmp_path: Path) -> None:
    one = keys.load_or_create_key(tmp_path / "one.pem")
    other = keys.load_or_create_key(tmp_path / "other.pem")
    one.private_path.write_bytes(other.private_path.read_bytes())
    with pytest.raises(SigningKeyError, match="replaced"):
        dsse.seal(STATEMENT, one)
