"""One file with its bundles, and archives of releases."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_folder import LFS_POINTER

from kiln.core.digest import sha256_bytes
from kiln.core.errors import VerificationError
from kiln.release import single_file
from kiln.signing import dsse
from kiln.signing.keys import SigningKey
from kiln.signing.statement_names import PROVENANCE_SUFFIX, TEST_RESULT_SUFFIX
from kiln.signing.trust import Requirements, Trust, trust_in_key

CONTENT = b"TFL3" * 100
NAME = "toy_int8.tflite"


@pytest.fixture
def trust(key: SigningKey) -> Trust:
    return trust_in_key(key.public_pem)


def provenance(name: str = NAME, content: bytes = CONTENT, **change: Any) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": sha256_bytes(content)}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "externalParameters": {"model": "toy"},
                "resolvedDependencies": [],
            },
            "runDetails": {"builder": {"id": "here"}},
        },
        **change,
    }


def result_statement(result: str) -> dict[str, Any]:
    return provenance(
        predicateType="https://in-toto.io/attestation/test-result/v0.1",
        predicate={"result": result},
    )


@pytest.fixture
def file(tmp_path: Path, key: SigningKey) -> Path:
    """An artefact in its folder, with both bundles where a release has them."""
    (tmp_path / "attestations").mkdir()
    (tmp_path / NAME).write_bytes(CONTENT)
    for suffix, statement in (
        (PROVENANCE_SUFFIX, provenance()),
        (TEST_RESULT_SUFFIX, result_statement("WARNED")),
    ):
        bundle = tmp_path / "attestations" / f"{NAME}{suffix}"
        bundle.write_bytes(dsse.seal(statement, key))
    return tmp_path / NAME


def bundle_of(file: Path, suffix: str = PROVENANCE_SUFFIX) -> Path:
    return file.parent / "attestations" / f"{file.name}{suffix}"


def refused(file: Path, trust: Trust, *bundles: Path) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        single_file.verify_file(file, trust, bundles)
    assert caught.value.remedy
    return caught.value


def test_a_file_in_its_folder(file: Path, trust: Trust, key: SigningKey) -> None:
    found = single_file.verify_file(file, trust)
    assert found == single_file.VerifiedFile(
        file, len(CONTENT), sha256_bytes(CONTENT), "toy", "WARNED", (f"key {key.key_id[:16]}",)
    )


def test_bundles_beside_it_or_named(file: Path, trust: Trust, tmp_path: Path) -> None:
    where = bundle_of(file).rename(file.with_name(bundle_of(file).name))
    bundle_of(file, TEST_RESULT_SUFFIX).unlink()
    assert single_file.verify_file(file, trust).result == ""
    elsewhere = where.rename(tmp_path / "x.json")
    assert "no provenance" in refused(file, trust).message
    assert single_file.verify_file(file, trust, [elsewhere]).model == "toy"
    assert "second" in refused(file, trust, elsewhere, elsewhere).message


@pytest.mark.parametrize("suffix", [PROVENANCE_SUFFIX, TEST_RESULT_SUFFIX])
def test_every_byte_of_file_and_bundles_counts(file: Path, trust: Trust, suffix: str) -> None:
    for path in (file, bundle_of(file, suffix)):
        data = path.read_bytes()
        for at in range(0, len(data), 11):
            path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            assert path.name in refused(file, trust).message
        path.write_bytes(data[:-1])
        assert path.name in refused(file, trust).message
        path.write_bytes(data)
    single_file.verify_file(file, trust)


def test_another_name_another_key_another_file(
    file: Path, trust: Trust, key: SigningKey, stranger: SigningKey
) -> None:
    assert "another key" in refused(file, trust_in_key(stranger.public_pem)).message
    moved = file.rename(file.with_name("new.tflite"))
    error = refused(moved, trust, bundle_of(file))
    assert "under another name" in error.message
    assert NAME in error.remedy
    (file.parent / "b.tflite").write_bytes(b"other")
    assert f"is not {NAME}" in refused(file.parent / "b.tflite", trust, bundle_of(file)).message
    assert "cannot be read" in refused(file, trust, bundle_of(file)).message
    assert "cannot be read" in refused(moved, trust, file.parent / "nowhere").message


@pytest.mark.parametrize(
    "statement",
    [
        provenance(subject=[]),
        provenance(subject=[{}, {}]),
        provenance(subject=[{"name": NAME, "digest": {"sha1": "0"}}]),
        provenance(predicate={}),
        provenance(predicate=None),
        provenance(predicateType="https://example.invalid"),
        {},
    ],
)
def test_genuine_signatures_on_something_else(
    file: Path, trust: Trust, key: SigningKey, statement: dict[str, Any]
) -> None:
    bundle_of(file).write_bytes(dsse.seal(statement, key))
    assert bundle_of(file).name in refused(file, trust).message


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_junk_in_a_bundle_s_place(file: Path, trust: Trust, data: bytes) -> None:
    bundle_of(file).write_bytes(data)
    assert bundle_of(file).name in refused(file, trust).message


def test_requirements(file: Path, trust: Trust) -> None:
    trust.requirements = Requirements(test_result="WARNED")
    single_file.verify_file(file, trust)
    trust.requirements = Requirements(test_result="PASSED", clean_git=True)
    message = refused(file, trust).message
    assert "WARNED" in message
    assert "from which commit" in message


def test_a_publisher_s_own_file_needs_no_test_result(
    tmp_path: Path, trust: Trust, key: SigningKey
) -> None:
    name = "toy_prebuilt_original.tflite"
    (tmp_path / name).write_bytes(CONTENT)
    bundle = tmp_path / f"{name}{PROVENANCE_SUFFIX}"
    bundle.write_bytes(dsse.seal(provenance(name), key))
    trust.requirements = Requirements(test_result="PASSED")
    assert single_file.verify_file(tmp_path / name, trust).result == ""
    other_model = provenance(name)
    other_model["predicate"]["buildDefinition"]["externalParameters"]["model"] = "other"
    bundle.write_bytes(dsse.seal(other_model, key))
    assert "has no test result" in refused(tmp_path / name, trust).message


# --- archives ----------------------------------------------------------------------------------


def tar(path: Path, names: list[str], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    return path


def zipped(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return path


@pytest.mark.parametrize("top", ["", "dist/"])
@pytest.mark.parametrize(
    "make",
    [
        lambda folder, names: tar(folder / "r.tar.gz", names),
        lambda folder, names: tar(folder / "r.TGZ", names),
        lambda folder, names: tar(folder / "r.tar", names, "w:"),
        lambda folder, names: zipped(folder / "r.zip", names),
    ],
)
def test_a_release_in_an_archive(
    tmp_path: Path, top: str, make: Callable[[Path, list[str]], Path]
) -> None:
    archive = make(tmp_path, [f"{top}SHA256SUMS", f"{top}toy/a"])
    assert single_file.is_archive(archive)
    with single_file.unpacked(archive) as folder:
        assert {p.relative_to(folder).as_posix() for p in folder.rglob("*")} == {
            *("SHA256SUMS", "toy", "toy/a")
        }
    assert not folder.exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["toy/a"], "no SHA256SUMS"),
        (["a/b/SHA256SUMS"], "no SHA256SUMS"),
        (["one/SHA256SUMS", "two/a"], "no SHA256SUMS"),
        (["SHA256SUMS", "../evil"], "leads out"),
        (["SHA256SUMS", "/evil"], "absolute"),
        (["SHA256SUMS", "._hidden"], "no part of a release"),
        (["SHA256SUMS", "a", "a"], "twice"),
    ],
)
def test_an_archive_that_is_not_one_of_a_release(
    tmp_path: Path, names: list[str], words: str
) -> None:
    archive = tar(tmp_path / "r.tar.gz", names)
    with pytest.raises(VerificationError, match=words), single_file.unpacked(archive):
        pass
    assert not (tmp_path.parent / "evil").exists()


def test_a_pointer_of_git_lfs_in_place_of_a_file(file: Path, trust: Trust) -> None:
    bundle = bundle_of(file)
    for path in (file, bundle, file.parent / "release.tar.gz"):
        before = path.read_bytes() if path.exists() else b""
        path.write_text(LFS_POINTER)
        with pytest.raises(VerificationError) as caught:
            if single_file.is_archive(path):
                with single_file.unpacked(path):
                    pass
            single_file.verify_file(file, trust)
        assert caught.value.message == f"{path} is a Git LFS pointer, not the file itself."
        assert "git lfs pull" in caught.value.remedy
        path.write_bytes(before)
    bundle.unlink()  # nor is it asked for the provenance of a pointer
    file.write_text(LFS_POINTER)
    with pytest.raises(VerificationError, match="is a Git LFS pointer"):
        single_file.verify_file(file, trust)
