"""A release before other people's programs: what they accept, and that kiln is never laxer."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_sigstore import ISSUER, WORKFLOW, LocalSigstore
from patience import PATIENCE
from places import ROOT
from small_release import MODELS, make_release, statement

from kiln.core.digest import canonical_json
from kiln.core.errors import VerificationError
from kiln.release import single_file, verify
from kiln.signing import dsse, keyless, keys, model_signature
from kiln.signing.keys import SigningKey
from kiln.signing.statement_names import (
    ATTESTATIONS,
    PROVENANCE_SUFFIX,
    PROVENANCE_TYPE,
    RELEASE_BUNDLE,
    RELEASE_TYPE,
    TEST_RESULT_SUFFIX,
    TEST_RESULT_TYPE,
)
from kiln.signing.trust import trust_in_identity, trust_in_key

COSIGN = ROOT / ".tools" / "cosign"
TYPES = {PROVENANCE_SUFFIX: PROVENANCE_TYPE, TEST_RESULT_SUFFIX: TEST_RESULT_TYPE}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Path:
    dist = tmp_path_factory.mktemp("release") / "dist"
    make_release(dist, key, 1)
    verify.verify(dist, key.public_pem)
    return dist


@pytest.fixture
def dist(made: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "dist"))


# --- cosign ------------------------------------------------------------------------------------


Cosign = Callable[[Path, Path, str, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def cosign(tmp_path_factory: pytest.TempPathFactory) -> Cosign:
    """``cosign verify-blob-attestation``, offline; where it is missing, tests are skipped."""
    if not COSIGN.is_file():
        reason = "cosign is not in .tools (make test-tools puts it there)"
        if os.environ.get("KILN_REQUIRE_TOOLS") == "1":
            pytest.fail(f"KILN_REQUIRE_TOOLS is set: {reason}", pytrace=False)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cosign")
    nothing = folder / "none.json"
    nothing.write_text('{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')

    def run(public: Path, bundle: Path, kind: str, blob: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(COSIGN), "verify-blob-attestation", "--key", str(public),
                "--new-bundle-format", "--trusted-root", str(nothing), "--insecure-ignore-tlog",
                "--bundle", str(bundle), "--type", kind, str(blob),
            ],
            capture_output=True, text=True, check=False, env={"HOME": str(folder)},
            timeout=PATIENCE,
        )  # fmt: skip

    return run


def test_cosign_accepts_every_bundle(made: Path, cosign: Cosign) -> None:
    public, count = made / "kiln.pub", 0
    for model in MODELS:
        for blob in sorted((made / model).glob("*.tflite")):
            for suffix, kind in TYPES.items():
                bundle = blob.parent / ATTESTATIONS / f"{blob.name}{suffix}"
                ended = cosign(public, bundle, kind, blob)
                assert ended.returncode == 0, ended.stderr
                count += 1
    assert count == 24
    for name in ("SHA256SUMS", "kiln.pub", f"{MODELS[0]}/model.sig"):
        ended = cosign(public, made / RELEASE_BUNDLE, RELEASE_TYPE, made / name)
        assert ended.returncode == 0, ended.stderr


def payload(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """Change what a bundle states, leaving its signature."""

    def spoil(bundle: dict[str, Any]) -> None:
        envelope = bundle["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        change(statement)
        text = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
        envelope["payload"] = base64.b64encode(text).decode()

    return spoil


def signature(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any]], None]:
    def spoil(bundle: dict[str, Any]) -> None:
        (one,) = bundle["dsseEnvelope"]["signatures"]
        one["sig"] = base64.b64encode(change(base64.b64decode(one["sig"]))).decode()

    return spoil


BUNDLE_CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another digest": payload(lambda s: s["subject"][0]["digest"].update(sha256="0" * 64)),
    "another name": payload(lambda s: s["subject"][0].update(name="other.tflite")),
    "another predicate": payload(lambda s: s["predicate"].update(more=1)),
    "another predicate type": payload(lambda s: s.update(predicateType="https://x.invalid")),
    "no subject": payload(lambda s: s.update(subject=[])),
    "signature flipped": signature(lambda d: d[:-1] + bytes([d[-1] ^ 1])),
    "signature cut": signature(lambda d: d[:-1]),
    "signature empty": signature(lambda d: b""),
    "signature of zeros": signature(lambda d: b"\x30\x06\x02\x01\x00\x02\x01\x00"),
    "no signature": lambda b: b["dsseEnvelope"].update(signatures=[]),
    "no envelope": lambda b: b.pop("dsseEnvelope"),
    "payload type": lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
    "media type": lambda b: b.update(mediaType="application/json"),
    "no material": lambda b: b.update(verificationMaterial={}),
}


@pytest.mark.parametrize("change", BUNDLE_CHANGES.values(), ids=BUNDLE_CHANGES)
@pytest.mark.parametrize("suffix", TYPES)
def test_kiln_refuses_the_bundles_that_cosign_refuses(
    dist: Path, cosign: Cosign, key: SigningKey, suffix: str, change: Any
) -> None:
    blob = dist / MODELS[0] / f"{MODELS[0]}_int8.tflite"
    bundle = blob.parent / ATTESTATIONS / f"{blob.name}{suffix}"
    content = json.loads(bundle.read_bytes())
    change(content)
    bundle.write_bytes(json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    ended = cosign(dist / "kiln.pub", bundle, TYPES[suffix], blob)
    assert ended.returncode != 0, "cosign accepts it: the test proves nothing"
    with pytest.raises(VerificationError):
        single_file.verify_file(blob, trust_in_key(key.public_pem))
    with pytest.raises(VerificationError, match=bundle.name):
        verify.verify(dist, key.public_pem)


def test_kiln_refuses_the_artefacts_and_keys_that_cosign_refuses(
    dist: Path, cosign: Cosign, key: SigningKey, stranger: SigningKey
) -> None:
    trust = trust_in_key(key.public_pem)
    blob = dist / MODELS[0] / f"{MODELS[0]}_int8.tflite"
    bundle = blob.parent / ATTESTATIONS / f"{blob.name}{PROVENANCE_SUFFIX}"

    def both_refuse() -> None:
        assert cosign(dist / "kiln.pub", bundle, PROVENANCE_TYPE, blob).returncode != 0
        with pytest.raises(VerificationError):
            single_file.verify_file(blob, trust, [bundle])

    content, sealed = blob.read_bytes(), bundle.read_bytes()
    for spoilt in (b"", content[:-1], content + b"\0", b"\0" + content[1:]):
        blob.write_bytes(spoilt)
        both_refuse()
    blob.write_bytes((blob.parent / f"{MODELS[0]}_float32.tflite").read_bytes())
    both_refuse()
    blob.write_bytes(content)
    bundle.write_bytes(dsse.seal(dsse.open_bundle(sealed, key.public_pem), stranger))
    both_refuse()
    # With that stranger's key it is good, to both: it was the key, not the form.
    (dist / "theirs.pub").write_bytes(stranger.public_pem)
    ended = cosign(dist / "theirs.pub", bundle, PROVENANCE_TYPE, blob)
    assert ended.returncode == 0, ended.stderr
    single_file.verify_file(blob, trust_in_key(stranger.public_pem), [bundle])


def test_cosign_follows_a_rotation(cosign: Cosign, tmp_path: Path) -> None:
    from kiln.signing.rotation import PREDICATE_TYPE, rotate

    keys.create_key(tmp_path / "k.pem")
    done = rotate(tmp_path / "k.pem", None, None)
    new, old = done.new.public_path, done.old.public_path
    assert cosign(old, done.statement, PREDICATE_TYPE, new).returncode == 0
    assert cosign(old, done.statement, PREDICATE_TYPE, old).returncode != 0
    assert cosign(new, done.statement, PREDICATE_TYPE, new).returncode != 0


# --- by an identity ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``root.json``, ``config.json`` and a model, ``toy``, signed by a workflow."""
    folder = tmp_path_factory.mktemp("identity")
    (folder / "toy" / ATTESTATIONS).mkdir(parents=True)
    with LocalSigstore().serve() as served, pytest.MonkeyPatch.context() as patch:
        served.announce(folder, patch)
        signer = keyless.KeylessSigner()
        predicate = {"buildDefinition": {"externalParameters": {"model": "toy"}}}
        made = statement(PROVENANCE_TYPE, "toy.tflite", b"toy", predicate)
        (folder / "toy" / "toy.tflite").write_bytes(b"toy")
        bundle = folder / "toy" / ATTESTATIONS / f"toy.tflite{PROVENANCE_SUFFIX}"
        bundle.write_bytes(signer.seal(made))
        model_signature.sign_folder(folder / "toy", signer)
        yield folder


def test_cosign_and_kiln_agree_about_an_identity(by_identity: Path) -> None:
    if not COSIGN.is_file():
        pytest.skip("cosign is not in .tools")
    blob = by_identity / "toy" / "toy.tflite"
    bundle = blob.parent / ATTESTATIONS / f"{blob.name}{PROVENANCE_SUFFIX}"

    def accepted(identity: str, issuer: str) -> tuple[bool, bool]:
        theirs = subprocess.run(
            [
                str(COSIGN), "verify-blob-attestation", "--new-bundle-format",
                "--trusted-root", str(by_identity / "root.json"),
                "--certificate-identity", identity, "--certificate-oidc-issuer", issuer,
                "--bundle", str(bundle), "--type", PROVENANCE_TYPE, str(blob),
            ],
            capture_output=True, check=False, env={"HOME": str(by_identity)}, timeout=PATIENCE,
        )  # fmt: skip
        trust = trust_in_identity(identity, issuer, by_identity / "root.json")
        try:
            single_file.verify_file(blob, trust)
        except VerificationError:
            return theirs.returncode == 0, False
        return theirs.returncode == 0, True

    assert accepted(WORKFLOW, ISSUER) == (True, True)
    assert accepted(WORKFLOW + "x", ISSUER) == (False, False)
    assert accepted(WORKFLOW, ISSUER + "x") == (False, False)
    sealed = json.loads(bundle.read_bytes())
    entry = sealed["verificationMaterial"]["tlogEntries"][0]
    changes: list[Callable[[dict[str, Any]], object]] = [
        payload(lambda s: s["predicate"].update(more=1)),
        signature(lambda d: d[:-1] + bytes([d[-1] ^ 1])),
        lambda b: b["verificationMaterial"].update(tlogEntries=[]),
        lambda b: b["verificationMaterial"]["tlogEntries"].append(entry),
        lambda b: b["verificationMaterial"]["tlogEntries"][0].update(integratedTime="1"),
        lambda b: b["verificationMaterial"]["tlogEntries"][0]["inclusionProof"].update(hashes=[]),
    ]
    for change in changes:
        content = json.loads(json.dumps(sealed))
        change(content)
        bundle.write_bytes(canonical_json(content) + b"\n")
        assert accepted(WORKFLOW, ISSUER) == (False, False)
    bundle.write_bytes(canonical_json(sealed) + b"\n")
    assert accepted(WORKFLOW, ISSUER) == (True, True)


def test_model_signing_and_kiln_agree_about_an_identity(by_identity: Path) -> None:
    folder = by_identity / "toy"

    def accepted(identity: str) -> tuple[bool, bool]:
        command = [
            sys.executable, "-m", "model_signing", "verify", "sigstore", str(folder),
            "--signature", str(folder / "model.sig"), "--identity", identity,
            "--identity_provider", ISSUER, "--trust_config", str(by_identity / "config.json"),
            "--ignore-paths", str(folder / "model.sig"),
        ]  # fmt: skip
        theirs = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
        trust = trust_in_identity(identity, ISSUER, by_identity / "root.json")
        try:
            signed = trust.open_model_signature((folder / "model.sig").read_bytes(), "toy")
        except VerificationError:
            return theirs.returncode == 0, False
        return theirs.returncode == 0, signed.name == "toy"

    assert accepted(WORKFLOW) == (True, True)
    assert accepted(WORKFLOW + "x") == (False, False)


# --- model_signing -----------------------------------------------------------------------------


def model_signing(folder: Path, public: Path) -> int:
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", str(folder),
        "--signature", str(folder / "model.sig"), "--public_key", str(public),
        "--ignore-paths", str(folder / "model.sig"),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE).returncode


def test_model_signing_accepts_every_model(made: Path) -> None:
    for model in MODELS:
        assert model_signing(made / model, made / "kiln.pub") == 0


def _model_changes(folder: Path, stranger: SigningKey) -> dict[str, Callable[[], object]]:
    sig = folder / "model.sig"
    artefact = folder / f"{folder.name}_int8.tflite"
    bundle = next((folder / ATTESTATIONS).iterdir())

    def flip() -> None:
        data = sig.read_bytes()
        content = json.loads(data)
        signature(lambda d: d[:-1] + bytes([d[-1] ^ 1]))(content)
        sig.write_bytes(json.dumps(content).encode())

    return {
        "a changed artefact": lambda: artefact.write_bytes(artefact.read_bytes() + b"\0"),
        "a changed bundle": lambda: bundle.write_bytes(bundle.read_bytes() + b"\n"),
        "a missing file": artefact.unlink,
        "an added file": lambda: (folder / "x.tflite").write_bytes(b""),
        "a renamed file": lambda: artefact.rename(folder / "x.tflite"),
        "another model's signature": lambda: shutil.copy(
            folder.parent / MODELS[1] / "model.sig", sig
        ),
        "a flipped signature": flip,
        "another key": lambda: model_signature.sign_folder(folder, stranger),
    }


@pytest.mark.parametrize("number", range(8))
def test_kiln_refuses_the_models_that_model_signing_refuses(
    dist: Path, key: SigningKey, stranger: SigningKey, number: int
) -> None:
    folder = dist / MODELS[0]
    changes = _model_changes(folder, stranger)
    assert len(changes) == 8
    name, change = list(changes.items())[number]
    change()
    assert model_signing(folder, dist / "kiln.pub") != 0, f"{name}: the test proves nothing"
    with pytest.raises(VerificationError):
        model_signature.verify_folder(folder, key.public_pem)
    with pytest.raises(VerificationError, match=MODELS[0]):
        verify.verify(dist, key.public_pem)


# --- sha256sum ---------------------------------------------------------------------------------


def sha256sum(dist: Path) -> subprocess.CompletedProcess[str]:
    command = ["sha256sum", "--strict", "--check", "SHA256SUMS"]
    return subprocess.run(command, cwd=dist, capture_output=True, text=True, check=False)


def test_sha256sum_accepts_it_and_kiln_refuses_what_it_refuses(dist: Path, key: SigningKey) -> None:
    good = sha256sum(dist)
    assert good.returncode == 0, good.stdout + good.stderr
    apart = {"SHA256SUMS", RELEASE_BUNDLE}
    files = [p for p in dist.rglob("*") if p.is_file() and p.name not in apart]
    assert good.stdout.count(": OK") == len(files)
    for path in files[:: len(files) // 10]:
        data = path.read_bytes()
        path.write_bytes(data + b"\0")
        assert sha256sum(dist).returncode != 0
        with pytest.raises(VerificationError, match=path.name):
            verify.verify(dist, key.public_pem)
        path.write_bytes(data)
    verify.verify(dist, key.public_pem)
