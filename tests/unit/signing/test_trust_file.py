"""Trust files: read or refused with every mistake named, and what they then allow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_sigstore import ISSUER, WORKFLOW, LocalSigstore

from kiln.core.errors import KilnError, SigningKeyError, UsageError, VerificationError
from kiln.signing import dsse, keyless, keys, model_signature
from kiln.signing.keys import SigningKey
from kiln.signing.rotation import rotate
from kiln.signing.trust import (
    MODEL,
    PROVENANCE,
    RELEASE,
    TEST_RESULT,
    Requirements,
    Trust,
    trust_in_identity,
    trust_in_key,
)
from kiln.signing.trust_file import load_policy

STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "a.tflite", "digest": {"sha256": "0" * 64}}],
    "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {},
}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return keys.load_or_create_key(tmp_path_factory.mktemp("key") / "mine.pem")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return keys.load_or_create_key(tmp_path_factory.mktemp("key") / "theirs.pem")


@pytest.fixture
def folder(tmp_path: Path, mine: SigningKey, theirs: SigningKey) -> Path:
    (tmp_path / "mine.pub").write_bytes(mine.public_pem)
    (tmp_path / "theirs.pub").write_bytes(theirs.public_pem)
    return tmp_path


def trust(folder: Path, text: str) -> Trust:
    path = folder / "trust.toml"
    path.write_text("schema = 1\n" + text)
    return load_policy(path)


def refused(trusted: Trust, data: bytes, role: str, model: str | None = "toy") -> str:
    with pytest.raises(VerificationError) as caught:
        trusted.open(data, role, model)
    assert caught.value.remedy
    return caught.value.message


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "signer: missing"),
        ("signer = []", "signer: "),
        ("[[signer]]", "needs either 'key' (or 'key_id') or 'identity'"),
        ('[[signer]]\nkey = "mine.pub"\nidentity = "x"\nissuer = "y"', "needs either"),
        ('[[signer]]\nidentity = "x"', "'identity' and 'issuer' go together"),
        ('[[signer]]\nkey = "mine.pub"\nissuer = "x"', "go together"),
        ('[[signer]]\nkey = "mine.pub"\nkeys = 1', "signer[1].keys: unknown key"),
        ('[[signer]]\nkey = "mine.pub"\nmay = []', "signer[1].may"),
        ('[[signer]]\nkey = "mine.pub"\nmay = ["everything"]', "'provenance'"),
        ('[[signer]]\nkey = "mine.pub"\nmodels = "toy"', "signer[1].models"),
        ('[[signer]]\nkey_id = "12"', "signer[1].key_id"),
        (f'[[signer]]\nkey_id = "{"0" * 64}"\nrotated = ["x"]', "'rotated' needs 'key'"),
        (f'[[signer]]\nkey = "mine.pub"\nkey_id = "{"0" * 64}"', "not the 'key_id'"),
        ('[[signer]]\nkey = "mine.pub"\nrotated = ["nowhere"]', "nowhere"),
        ('[[signer]]\nkey = "mine.pub"\n[require]\ntest_result = "FAILED"', "test_result"),
        ('[[signer]]\nkey = "mine.pub"\n[require]\nclean_git = "yes"', "clean_git"),
        ('[[signer]]\nkey = "mine.pub"\n[require]\nimages = ["odapi"]', "images"),
        ('[[signer]]\nkey = "mine.pub"\n[other]', "other: unknown key"),
        ("signer", "is wrong"),
        ("schema = 2", "is wrong"),
    ],
)
def test_mistakes_are_named(folder: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        trust(folder, text)
    assert words in caught.value.message
    assert caught.value.remedy


def test_what_cannot_be_read(folder: Path) -> None:
    for path in (folder / "nowhere.toml", folder):
        with pytest.raises(UsageError, match="cannot be read"):
            load_policy(path)
    (folder / "latin.toml").write_bytes(b'schema = 1 # caf\xe9\n[[signer]]\nkey = "mine.pub"')
    with pytest.raises(UsageError):
        load_policy(folder / "latin.toml")
    with pytest.raises(SigningKeyError, match=r"nowhere\.pub"):
        trust(folder, '[[signer]]\nkey = "nowhere.pub"')


# --- who may what ------------------------------------------------------------------------------


def test_rights_of_keys(folder: Path, mine: SigningKey, theirs: SigningKey) -> None:
    trusted = trust(
        folder,
        """
        [[signer]]
        name = "Me"
        key = "mine.pub"
        may = ["release", "model"]
        [[signer]]
        key = "theirs.pub"
        may = ["provenance", "test-result"]
        models = ["toy", "shapes_*"]
        """,
    )
    by_me, by_them = dsse.seal(STATEMENT, mine), dsse.seal(STATEMENT, theirs)
    assert trusted.open(by_me, RELEASE) == STATEMENT
    assert trusted.open(by_them, PROVENANCE, "shapes_1") == STATEMENT
    assert trusted.open(by_them, TEST_RESULT, "toy") == STATEMENT
    assert trusted.used == [f"Me (key {mine.key_id[:16]})", f"key {theirs.key_id[:16]}"]
    assert "Me" in refused(trusted, by_me, PROVENANCE)
    assert "may not sign a provenance" in refused(trusted, by_me, PROVENANCE)
    assert "may not sign a release" in refused(trusted, by_them, RELEASE, None)
    assert "model 'other'" in refused(trusted, by_them, PROVENANCE, "other")


def test_one_key_with_rights_in_two_tables(folder: Path, mine: SigningKey) -> None:
    trusted = trust(
        folder,
        """
        [[signer]]
        key = "mine.pub"
        may = ["release"]
        [[signer]]
        key = "mine.pub"
        may = ["provenance"]
        models = ["toy"]
        """,
    )
    data = dsse.seal(STATEMENT, mine)
    assert trusted.open(data, RELEASE)
    assert trusted.open(data, PROVENANCE, "toy")
    assert "model 'x'" in refused(trusted, data, PROVENANCE, "x")
    refused(trusted, data, MODEL)


def test_a_stranger_s_signature(folder: Path, mine: SigningKey, theirs: SigningKey) -> None:
    trusted = trust(folder, '[[signer]]\nkey = "mine.pub"')
    assert "another key" in refused(trusted, dsse.seal(STATEMENT, theirs), PROVENANCE)
    data = json.loads(dsse.seal(STATEMENT, theirs))
    data["verificationMaterial"]["publicKey"]["hint"] = mine.key_id
    spoilt = json.dumps(data, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    refused(trusted, spoilt, PROVENANCE)
    refused(trusted, b"junk", PROVENANCE)


def test_a_key_of_which_only_the_id_is_known(
    folder: Path, mine: SigningKey, theirs: SigningKey
) -> None:
    trusted = trust(folder, f'[[signer]]\nkey_id = "{mine.key_id}"')
    data = dsse.seal(STATEMENT, mine)
    assert "public key is missing" in refused(trusted, data, PROVENANCE)
    trusted.offer_key(theirs.public_pem)
    trusted.offer_key(b"junk")
    assert "public key is missing" in refused(trusted, data, PROVENANCE)
    trusted.offer_key(mine.public_pem)
    assert trusted.open(data, PROVENANCE, "toy") == STATEMENT
    assert trusted.knows_key(mine.public_pem)
    assert not trusted.knows_key(theirs.public_pem)


def test_following_a_rotation(folder: Path) -> None:
    keys.create_key(folder / "k.pem")
    first = keys.load_key(folder / "k.pem")
    (folder / "first.pub").write_bytes(first.public_pem)
    done = [rotate(folder / "k.pem", None, None) for _ in range(2)]
    statements = [one.statement.name for one in done]
    with pytest.raises(SigningKeyError, match="was replaced"):
        keys.load_private_key(first)
    first = done[0].old
    last = keys.load_key(folder / "k.pem")
    table = '[[signer]]\nkey = "first.pub"\nrotated = '
    trusted = trust(folder, table + json.dumps(statements))
    for key in (first, last):
        assert trusted.open(dsse.seal(STATEMENT, key), PROVENANCE, "toy") == STATEMENT
    with pytest.raises(VerificationError):
        trust(folder, table + json.dumps(statements[::-1]))


def test_a_model_s_signature(folder: Path, mine: SigningKey, theirs: SigningKey) -> None:
    (folder / "toy").mkdir()
    (folder / "toy" / "a").write_text("a")
    model_signature.sign_folder(folder / "toy", mine)
    data = (folder / "toy" / "model.sig").read_bytes()
    assert trust_in_key(mine.public_pem).open_model_signature(data, "toy").name == "toy"
    with pytest.raises(VerificationError, match="another key"):
        trust_in_key(theirs.public_pem).open_model_signature(data, "toy")
    limited = trust(folder, '[[signer]]\nkey = "mine.pub"\nmodels = ["other"]')
    with pytest.raises(VerificationError, match="may not sign for the model"):
        limited.open_model_signature(data, "toy")


# --- identities --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSigstore]:
    with LocalSigstore().serve() as served:
        yield served


@pytest.fixture
def by_workflow(world: LocalSigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    world.announce(tmp_path, monkeypatch)
    return keyless.KeylessSigner().seal(STATEMENT)


@pytest.mark.parametrize(
    ("identity", "issuer", "good"),
    [
        (WORKFLOW, ISSUER, True),
        (WORKFLOW.replace("v1", "*"), ISSUER, True),
        (WORKFLOW.replace("v1", "v2"), ISSUER, False),
        (WORKFLOW[:-1], ISSUER, False),
        (WORKFLOW, ISSUER + ".evil", False),
        (WORKFLOW, "*", False),
    ],
)
def test_identities(
    folder: Path, by_workflow: bytes, identity: str, issuer: str, good: bool
) -> None:
    file = f'[[signer]]\nidentity = "{identity}"\nissuer = "{issuer}"\n'
    file += '[keyless]\ntrusted_root = "root.json"'
    for trusted in (
        trust(folder, file),
        trust_in_identity(identity, issuer, folder / "root.json"),
    ):
        if good:
            assert trusted.open(by_workflow, PROVENANCE, "toy") == STATEMENT
            assert identity in trusted.used[0]
        else:
            assert "not trusted" in refused(trusted, by_workflow, PROVENANCE)


def test_a_key_is_no_identity_and_the_other_way_round(
    folder: Path, by_workflow: bytes, mine: SigningKey
) -> None:
    by_key = trust_in_key(mine.public_pem)
    by_key.trusted_root = folder / "root.json"
    assert "not trusted" in refused(by_key, by_workflow, PROVENANCE)
    by_identity = trust_in_identity(WORKFLOW, ISSUER, folder / "root.json")
    assert "only identities" in refused(by_identity, dsse.seal(STATEMENT, mine), PROVENANCE)
    limited = trust(
        folder,
        f'[[signer]]\nidentity = "{WORKFLOW}"\nissuer = "{ISSUER}"\nmay = ["release"]\n'
        '[keyless]\ntrusted_root = "root.json"',
    )
    assert "may not sign a provenance" in refused(limited, by_workflow, PROVENANCE)


# --- requirements ------------------------------------------------------------------------------


def provenance(**parts: Any) -> dict[str, Any]:
    repository = {
        "name": "repository",
        "uri": "git+https://git.example.invalid/me/models",
        "annotations": {"dirty": parts.get("dirty", False)},
    }
    image = {"name": "image/odapi", "digest": {"sha256": parts.get("image", "a" * 64)}}
    dependencies = [image] if parts.get("no_git") else [image, repository]
    return {
        "predicate": {
            "buildDefinition": {"resolvedDependencies": dependencies},
            "runDetails": {"builder": {"id": "https://git.example.invalid/me/models/x.yml"}},
        }
    }


@pytest.mark.parametrize(
    ("requirements", "statement", "words"),
    [
        (Requirements(), provenance(dirty=True), ""),
        (Requirements(clean_git=True), provenance(), ""),
        (Requirements(clean_git=True), provenance(dirty=True), "not committed"),
        (Requirements(clean_git=True), provenance(no_git=True), "from which commit"),
        (Requirements(repository="https://git.example.invalid/me/*"), provenance(), ""),
        (Requirements(repository="https://git.example.invalid/you/*"), provenance(), "me/models"),
        (Requirements(repository="https://*"), provenance(no_git=True), "unknown"),
        (Requirements(images=("a" * 64, "b" * 64)), provenance(), ""),
        (Requirements(images=("b" * 64,)), provenance(), "a" * 64),
        (Requirements(builders=("https://git.example.invalid/me/*",)), provenance(), ""),
        (Requirements(builders=("https://git.example.invalid/you/*",)), provenance(), "built by"),
        (Requirements(clean_git=True), {"predicate": []}, "says nothing"),
        (Requirements(clean_git=True), {}, "says nothing"),
    ],
)
def test_what_provenance_must_say(
    requirements: Requirements, statement: dict[str, Any], words: str
) -> None:
    found = "; ".join(requirements.unmet_by_provenance(statement))
    assert bool(found) == bool(words)
    assert words in found


@pytest.mark.parametrize(
    ("wanted", "result", "good"),
    [
        ("", None, True),
        ("", "FAILED", True),
        ("PASSED", "PASSED", True),
        ("PASSED", "WARNED", False),
        ("PASSED", None, False),
        ("WARNED", "WARNED", True),
        ("WARNED", "PASSED", True),
        ("WARNED", "FAILED", False),
        ("WARNED", ["PASSED"], False),
    ],
)
def test_what_tests_must_say(wanted: str, result: Any, good: bool) -> None:
    statement = None if result is None else {"predicate": {"result": result}}
    assert (not Requirements(test_result=wanted).unmet_by_test_result(statement)) == good


def test_errors_are_ours() -> None:
    with pytest.raises(KilnError):
        trust_in_key(b"junk")
