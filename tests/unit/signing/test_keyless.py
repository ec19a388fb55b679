"""Signatures by identity: the real library against an authority and logs on 127.0.0.1."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_sigstore import ISSUER, WORKFLOW, LocalSigstore

from kiln.core.digest import canonical_json
from kiln.core.errors import KilnError, SigningKeyError, SourceUnavailableError, VerificationError
from kiln.signing import keyless, model_signature

STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "a.tflite", "digest": {"sha256": "0" * 64}}],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {"café": [1, 2]},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSigstore]:
    with LocalSigstore().serve() as served:
        yield served


@pytest.fixture(autouse=True)
def config(world: LocalSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sigstore"
    folder.mkdir()
    world.announce(folder, monkeypatch)
    return folder / "config.json"


@pytest.fixture(scope="module")
def root(world: LocalSigstore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("root") / "trusted_root.json"
    path.write_text(json.dumps(world.trusted_root()))
    return path


def test_signed_logged_and_opened_again(root: Path) -> None:
    signer, verifier = keyless.KeylessSigner(), keyless.KeylessVerifier(root)
    for _ in range(3):
        data = signer.seal(STATEMENT)
        assert keyless.is_keyless(data)
        assert data == canonical_json(json.loads(data)) + b"\n"
        assert verifier.open(data) == (STATEMENT, keyless.Identity(WORKFLOW, ISSUER))


def test_every_flipped_bit_of_a_bundle_is_found(root: Path) -> None:
    verifier = keyless.KeylessVerifier(root)
    data = keyless.KeylessSigner().seal(STATEMENT)
    rng = random.Random(1)
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << rng.randrange(8)
        with pytest.raises(VerificationError):
            verifier.open(bytes(spoilt))


def _set(*path: str | int, to: object) -> Any:
    def change(bundle: dict[str, Any]) -> None:
        item: Any = bundle
        for key in path[:-1]:
            item = item[key]
        item[path[-1]] = to

    return change


ENTRY = ("verificationMaterial", "tlogEntries", 0)


@pytest.mark.parametrize(
    "change",
    [
        _set("extra", to=1),
        _set("dsseEnvelope", "signatures", 0, "keyid", to="me"),
        _set("verificationMaterial", "publicKey", to={"hint": "0" * 64}),
        _set(*ENTRY, "logIndex", to="7"),
        _set(*ENTRY, "integratedTime", to="1700000000"),
        _set(*ENTRY, "inclusionPromise", to=None),
        _set(*ENTRY, "inclusionProof", "logIndex", to="0"),
        _set(*ENTRY, "inclusionProof", "hashes", to=[]),
        _set("mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.3"),
    ],
)
def test_what_the_library_might_pass_over(root: Path, change: Any) -> None:
    bundle = json.loads(keyless.KeylessSigner().seal(STATEMENT))
    change(bundle)
    with pytest.raises(VerificationError):
        keyless.KeylessVerifier(root).open(canonical_json(bundle) + b"\n")


def test_other_spellings_and_other_witnesses_are_refused(root: Path) -> None:
    verifier = keyless.KeylessVerifier(root)
    data = keyless.KeylessSigner().seal(STATEMENT)
    for spelt in (data[:-1], data + b"\n", json.dumps(json.loads(data), indent=1).encode()):
        with pytest.raises(VerificationError):
            verifier.open(spelt)
    bundle = json.loads(data)
    proof = bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    proof["checkpoint"]["envelope"] += "\u2014 somebody AAAAAAAA\n"
    with pytest.raises(VerificationError, match="signatures that are not verified"):
        verifier.open(canonical_json(bundle) + b"\n")


def test_parts_of_two_bundles_do_not_go_together(root: Path) -> None:
    signer = keyless.KeylessSigner()
    one, two = (
        json.loads(signer.seal({**STATEMENT, "predicate": {"n": number}})) for number in (1, 2)
    )
    for part in ("dsseEnvelope", "verificationMaterial"):
        with pytest.raises(VerificationError):
            mixed = {**one, part: two[part]}
            keyless.KeylessVerifier(root).open(canonical_json(mixed) + b"\n")


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    data = keyless.KeylessSigner().seal(STATEMENT)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(LocalSigstore().trusted_root()))
    with pytest.raises(VerificationError):
        keyless.KeylessVerifier(other).open(data)
    with pytest.raises(VerificationError):
        keyless.KeylessVerifier(None).open(data)  # the public instance, from the library's copy


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"mediaType": "x"}'])
def test_a_trusted_root_that_is_none(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "root.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(VerificationError, match=r"root\.json"):
        keyless.KeylessVerifier(path)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_bundle(root: Path, data: bytes) -> None:
    assert not keyless.is_keyless(data)
    with pytest.raises(VerificationError):
        keyless.KeylessVerifier(root).open(data)


def test_without_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keyless.TOKEN_VARIABLE)
    with pytest.raises(SigningKeyError) as caught:
        keyless.KeylessSigner().seal(STATEMENT)
    assert "id-token: write" in caught.value.remedy
    monkeypatch.setenv(keyless.TOKEN_VARIABLE, "junk")
    with pytest.raises(SigningKeyError, match="not accepted"):
        keyless.KeylessSigner().seal(STATEMENT)


def test_when_nobody_answers(config: Path) -> None:
    content = json.loads(config.read_text())
    for service in ("caUrls", "rekorTlogUrls"):
        spoilt = json.loads(json.dumps(content))
        spoilt["signingConfig"][service][0]["url"] = "http://127.0.0.1:9"
        config.write_text(json.dumps(spoilt))
        with pytest.raises(SourceUnavailableError):
            keyless.KeylessSigner().seal(STATEMENT)
    config.write_text("junk")
    with pytest.raises(KilnError, match="trust configuration"):
        keyless.KeylessSigner().seal(STATEMENT)


def test_a_folder_signed_by_an_identity(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.tflite").write_bytes(b"a")
    model_signature.sign_folder(folder, keyless.KeylessSigner())
    data = (folder / "model.sig").read_bytes()
    statement, who = keyless.KeylessVerifier(root).open(data, canonical=False)
    assert who.subject == WORKFLOW
    assert model_signature.folder_of(statement).digests.keys() == {"sub/a.tflite"}
