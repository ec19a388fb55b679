"""Model signatures: ours verify with the library's own program, and damage is named."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from import_cost import also_imported
from patience import PATIENCE

from kiln.core.errors import StoreError, VerificationError
from kiln.signing import dsse, keys, model_signature
from kiln.signing.keys import SigningKey
from kiln.statements.release_statement import release_statement

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return keys.load_or_create_key(tmp_path_factory.mktemp("key") / "k.pem")


@pytest.fixture
def folder(tmp_path: Path, key: SigningKey) -> Path:
    made = tmp_path / "toy"
    (made / "sub").mkdir(parents=True)
    (made / "toy_float32.tflite").write_bytes(bytes(range(256)) * 40)
    (made / "labelmap.txt").write_text("person\n")
    (made / "sub" / "notes.json").write_text("{}")
    model_signature.sign_folder(made, key)
    return made


def refused(folder: Path, public_pem: bytes) -> str:
    with pytest.raises(VerificationError) as caught:
        model_signature.verify_folder(folder, public_pem)
    assert caught.value.remedy
    return caught.value.message


def model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The library's own program; every proxy leads nowhere, so that it works offline or fails."""
    nowhere = "http://127.0.0.1:9"
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "http_proxy": nowhere, "https_proxy": nowhere, "ALL_PROXY": nowhere},
    )


def test_what_was_signed_verifies(folder: Path, key: SigningKey) -> None:
    model_signature.verify_folder(folder, key.public_pem)
    signed = model_signature.read_signature((folder / "model.sig").read_bytes(), key.public_pem)
    assert signed.name == "toy"
    assert set(signed.digests) == {"labelmap.txt", "sub/notes.json", "toy_float32.tflite"}
    before = sorted(folder.rglob("*"))
    model_signature.sign_folder(folder, key)  # signing again replaces
    assert sorted(folder.rglob("*")) == before
    model_signature.verify_folder(folder, key.public_pem)


def test_the_librarys_own_program_verifies_it(folder: Path, key: SigningKey) -> None:
    signature = folder / "model.sig"
    arguments = ("verify", "key", folder, "--signature", signature, "--public_key", key.public_path)
    good = model_signing(*arguments)
    assert good.returncode == 0, good.stdout + good.stderr
    (folder / "labelmap.txt").write_text("Person\n")
    bad = model_signing(*arguments)
    assert bad.returncode != 0
    assert "labelmap.txt" in bad.stdout + bad.stderr


def test_what_the_librarys_own_program_signed_verifies_here(folder: Path, key: SigningKey) -> None:
    signature = folder / "model.sig"
    signature.unlink()
    made = model_signing(
        *("sign", "key", folder, "--signature", signature, "--no-ignore-git-paths"),
        *("--private_key", key.private_path),
    )
    assert made.returncode == 0, made.stdout + made.stderr
    model_signature.verify_folder(folder, key.public_pem)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_the_larger_curves_and_locked_keys(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: ec.EllipticCurve
) -> None:
    place = tmp_path / "other.pem"
    place.write_bytes(
        ec.generate_private_key(curve).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    place.chmod(0o600)
    monkeypatch.setenv(keys.KEY_VARIABLE, str(place))
    monkeypatch.setenv(keys.PASSWORD_VARIABLE, "secret")
    other = keys.load_or_create_key()
    model_signature.sign_folder(folder, other)
    model_signature.verify_folder(folder, other.public_pem)
    public = tmp_path / "other.pub"
    public.write_bytes(other.public_pem)
    run = model_signing(
        *("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public)
    )
    assert run.returncode == 0, run.stdout + run.stderr


def swap(folder: Path) -> None:
    one, two = folder / "labelmap.txt", folder / "sub" / "notes.json"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def relink(folder: Path) -> None:
    content = (folder / "labelmap.txt").rename(folder.parent / "outside")
    (folder / "labelmap.txt").symlink_to(content)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: (f / "labelmap.txt").write_text("persom\n"), ["labelmap.txt: was changed"]),
        (lambda f: (f / "sub" / "notes.json").unlink(), ["sub/notes.json: is missing"]),
        (lambda f: (f / "new.txt").write_text(""), ["new.txt: was added"]),
        (lambda f: (f / ".gitignore").write_text(""), [".gitignore: was added"]),
        (lambda f: (f / "labelmap.txt").rename(f / "l.txt"), ["labelmap.txt: is m", "l.txt: was"]),
        (swap, ["labelmap.txt: was changed", "sub/notes.json: was changed"]),
        (relink, ["labelmap.txt: is a symbolic link"]),
        (lambda f: (f / "empty").mkdir(), ["empty: is an empty folder"]),
        (lambda f: os.mkfifo(f / "pipe"), ["pipe: is neither"]),
        (lambda f: (f / "model.sig").unlink(), ["model.sig"]),
        (lambda f: (f / "model.sig").write_text("{}"), ["model.sig is damaged"]),
        (lambda f: (f / "model.sig").write_bytes(b"\xff"), ["model.sig is damaged"]),
        (lambda f: (f / "model.sig").write_text("[" * 100000), ["model.sig is damaged"]),
    ],
)
def test_every_change_is_named(
    folder: Path, key: SigningKey, change: Change, named: list[str]
) -> None:
    change(folder)
    message = refused(folder, key.public_pem)
    for words in named:
        assert words in message


def test_another_key_is_not_trusted(folder: Path, key: SigningKey, tmp_path: Path) -> None:
    other = keys.load_or_create_key(tmp_path / "other.pem")
    message = refused(folder, other.public_pem)
    assert "another key" in message
    assert key.key_id[:16] in message


def forge(
    folder: Path, key: SigningKey, change: Callable[[dict[str, Any]], object], *, signed: bool
) -> None:
    """Change the statement in the bundle, and sign it anew with the right key or not."""
    signature = folder / "model.sig"
    bundle = json.loads(signature.read_bytes())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    if signed:
        private = load_pem_private_key(key.private_path.read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        kind = b"application/vnd.in-toto+json"
        encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        value = private.sign(encoded, ec.ECDSA(hashes.SHA256()))
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(value).decode()
    signature.write_text(json.dumps(bundle))


def test_forging_helper_makes_valid_signatures(folder: Path, key: SigningKey) -> None:
    forge(folder, key, lambda statement: None, signed=True)
    model_signature.verify_folder(folder, key.public_pem)


def test_a_changed_statement_is_no_longer_signed(folder: Path, key: SigningKey) -> None:
    forge(folder, key, lambda s: s["subject"][0].update(name="other"), signed=False)
    assert "not a valid signature" in refused(folder, key.public_pem)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s["predicate"]["serialization"].update(ignore_paths=["x", "model.sig"]),
            "leaves out x",
        ),
        (lambda s: s["predicate"]["serialization"].update(allow_symlinks=True), "plain files"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "plain files"),
        (lambda s: s["predicate"]["resources"].pop(), "contradicts itself"),
        (
            lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]),
            "lists a file twice",
        ),
        (lambda s: s["predicate"]["resources"][0].update(name="/etc/passwd"), "impossible"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="md5"), "SHA-256"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "something other"),
        (lambda s: s.update(subject=[]), "damaged"),
        (lambda s: s.pop("predicate"), "damaged"),
    ],
)
def test_a_genuine_signature_on_a_wrong_statement_is_refused(
    folder: Path, key: SigningKey, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    forge(folder, key, change, signed=True)
    assert words in refused(folder, key.public_pem)


def test_what_cannot_be_covered_is_not_signed(folder: Path, key: SigningKey) -> None:
    (folder / "link").symlink_to("labelmap.txt")
    before = (folder / "model.sig").read_bytes()
    with pytest.raises(StoreError, match="link is a symbolic link"):
        model_signature.sign_folder(folder, key)
    assert (folder / "model.sig").read_bytes() == before
    with pytest.raises(StoreError, match="nowhere"):
        model_signature.sign_folder(folder / "nowhere", key)


def test_the_slow_library_is_imported_only_to_sign() -> None:
    assert also_imported("kiln.release.publish", ["model_signing"]) == []


CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]


def key_on(curve: ec.EllipticCurve, path: Path) -> SigningKey:
    made = ec.generate_private_key(curve)
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return keys.load_key(path)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_signatures_have_one_form(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    """The group's order is the library's own, not ours."""
    mine = key_on(curve, tmp_path / "key.pem")
    public = keys.parse_public_key(mine.public_pem)
    for number in range(40):
        data = b"%d" % number
        signature = keys.sign(mine, data)
        r, s = decode_dss_signature(signature)
        assert 2 * s < curve.group_order
        other = encode_dss_signature(r, curve.group_order - s)
        assert keys.signature_holds(public, data, signature)
        assert keys.signature_holds(public, data, other)  # why it is needed
        assert keys.low(other, curve) == keys.low(signature, curve) == signature


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_the_librarys_signatures_are_given_that_form(
    curve: ec.EllipticCurve, folder: Path, tmp_path: Path
) -> None:
    mine = key_on(curve, tmp_path / "key.pem")
    for _ in range(6):
        model_signature.sign_folder(folder, mine)
        model_signature.verify_folder(folder, mine.public_pem)
        bundle = json.loads((folder / "model.sig").read_bytes())
        (signature,) = bundle["dsseEnvelope"]["signatures"]
        _, s = decode_dss_signature(base64.b64decode(signature["sig"]))
        assert 2 * s < curve.group_order


def test_a_release_statement_has_to_have_it(key: SigningKey) -> None:
    """One that says so; older ones do not, and verify as they are."""
    statement = release_statement({"a": "0" * 64}, "v1")
    for marked in (True, False):
        if not marked:
            del statement["predicate"]["signatureForm"]
        data = dsse.seal(statement, key)
        assert dsse.open_bundle(data, key.public_pem) == statement
        payload, signature = dsse.envelope_parts(dsse.parse_bundle(data))
        r, s = decode_dss_signature(signature)
        twin = encode_dss_signature(r, ec.SECP256R1().group_order - s)
        other = dsse.bundle_bytes(payload, twin, {"publicKey": {"hint": key.key_id}})
        if marked:
            with pytest.raises(VerificationError, match="form other than"):
                dsse.open_bundle(other, key.public_pem)
        else:
            assert dsse.open_bundle(other, key.public_pem) == statement
