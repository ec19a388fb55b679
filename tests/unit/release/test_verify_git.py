"""A release inside a git checkout: refused with the way out, or verified without git's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from published import refused, spoil_artefact
from training_folder import LFS_POINTER

from kiln.core.errors import VerificationError
from kiln.release import verify
from kiln.signing.keys import SigningKey
from kiln.signing.trust import trust_in_key

OWN = (
    ".git/HEAD",
    ".gitattributes",
    ".github/workflows/x.yml",
    "toy/.gitignore",
    "toy/.git/config",
)
LEFT_OUT = (".git", ".gitattributes", ".github", "toy/.git", "toy/.gitignore")


@pytest.fixture
def checkout(dist: Path) -> Path:
    for path in OWN:
        (dist / path).parent.mkdir(parents=True, exist_ok=True)
        (dist / path).write_bytes(b"x")
    (dist / ".git" / "empty").mkdir()
    (dist / ".git" / "link").symlink_to("/nowhere")
    return dist


def ignoring(dist: Path, key: SigningKey) -> verify.VerifyReport:
    return verify.verify_by(dist, trust_in_key(key.public_pem), ignore_git=True)


def test_without_the_option_the_message_names_it(checkout: Path, key: SigningKey) -> None:
    error = refused(checkout, key.public_pem)
    assert error.message.splitlines()[1:] == [
        f"  {path}: is git's own: no signature covers it" for path in LEFT_OUT
    ]
    assert error.remedy == "If this is a git checkout, --ignore-git passes over git's own files."


def test_with_it_the_release_verifies_and_says_so(checkout: Path, key: SigningKey) -> None:
    report = ignoring(checkout, key)
    assert report.ignored == LEFT_OUT
    assert [model.name for model in report.models] == ["other", "toy"]
    assert not any(".git" in file.path for model in report.models for file in model.files)


def test_it_is_of_no_use_where_there_is_nothing_to_ignore(dist: Path, key: SigningKey) -> None:
    assert ignoring(dist, key).ignored == ()


@pytest.mark.parametrize(
    "path",
    ["git", ".gitmodules", "toy/.git.bak", "toy/previews/.gitignore", "toy/sub/.git/x", ".hub/x"],
)
def test_other_names_and_places_are_not_gits(checkout: Path, key: SigningKey, path: str) -> None:
    (checkout / path).parent.mkdir(parents=True, exist_ok=True)
    (checkout / path).write_bytes(b"x")
    with pytest.raises(VerificationError) as caught:
        ignoring(checkout, key)
    assert path in caught.value.message
    assert "--ignore-git" not in caught.value.remedy


def test_what_else_is_wrong_is_still_found(checkout: Path, key: SigningKey) -> None:
    spoil_artefact(checkout)
    with pytest.raises(VerificationError, match=r"toy/labelmap.txt: was changed"):
        ignoring(checkout, key)
    error = refused(checkout, key.public_pem)
    assert "toy/labelmap.txt: was changed" in error.message
    assert "--ignore-git" in error.remedy and "Do not use these files" in error.remedy


def test_a_checkout_of_many_objects_costs_nothing(checkout: Path, key: SigningKey) -> None:
    objects = checkout / ".git" / "objects"
    deep = objects.joinpath(*"abcdefghij")  # deeper than a release may be
    deep.mkdir(parents=True)
    (deep / "object").touch()
    for number in range(10_001):  # more than a release may have
        (objects / f"{number:04}").touch()
    assert ignoring(checkout, key).ignored == LEFT_OUT


# --- pointers of Git LFS -------------------------------------------------------------------------

POINTER = "is a Git LFS pointer, not the file itself"


@pytest.mark.parametrize(
    "paths",
    [
        ["toy/toy_dynamic.tflite"],
        ["other/other_dynamic.tflite", "toy/toy_dynamic.tflite"],
        ["kiln.pub"],
        ["release.sigstore.json"],
        ["SHA256SUMS"],
        ["toy/model.sig"],
    ],
)
def test_files_that_git_lfs_did_not_fetch(dist: Path, key: SigningKey, paths: list[str]) -> None:
    for path in paths:
        assert (dist / path).is_file()
        (dist / path).write_text(LFS_POINTER)
    error = refused(dist, key.public_pem)
    assert error.message.splitlines()[1:] == [f"  {path}: {POINTER}" for path in paths]
    assert error.remedy == "Run `git lfs pull` in its repository, then try again."


def test_a_pointer_beside_a_changed_file(dist: Path, key: SigningKey) -> None:
    (dist / "toy" / "toy_dynamic.tflite").write_text(LFS_POINTER)
    spoil_artefact(dist)
    error = refused(dist, key.public_pem)
    assert [line for line in error.message.splitlines() if POINTER in line] == [
        f"  toy/toy_dynamic.tflite: {POINTER}"
    ]
    assert "toy/labelmap.txt: was changed" in error.message
    assert "git lfs pull" in error.remedy and "Do not use these files" in error.remedy
