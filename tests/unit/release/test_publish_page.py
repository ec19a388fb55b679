"""What lies beside a release's models: the page and the figures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from published import PAGE, publish_toy, refused, snapshot, sum_again
from toy_release import ToyModel

from kiln.release import publish, verify
from kiln.signing.keys import SigningKey
from kiln.signing.signer import KeySigner


def test_the_page_is_written_once(dist: Path, key: SigningKey, signer: KeySigner) -> None:
    before = snapshot(dist)
    assert not publish.publish_page(dist, PAGE, signer)
    assert snapshot(dist) == before
    alone = {"index.html": b"<!doctype html><title>Other</title>"}
    assert publish.publish_page(dist, alone, signer)
    assert not (dist / "latency.json").exists()
    verify.verify(dist, key.public_pem)


@pytest.mark.parametrize("name", [*PAGE, "release.sigstore.json"])
def test_nothing_of_the_page_can_be_exchanged(dist: Path, key: SigningKey, name: str) -> None:
    """Not even by somebody who makes SHA256SUMS fit again."""
    data = (dist / name).read_bytes()
    (dist / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    sum_again(dist)
    assert name in refused(dist, key.public_pem).message
    (dist / name).unlink()
    sum_again(dist)
    assert name in refused(dist, key.public_pem).message


@pytest.mark.parametrize("name", ["index.html", "latency.json"])
def test_what_somebody_else_wrote_is_never_signed(
    dist: Path, key: SigningKey, signer: KeySigner, toy: ToyModel, name: str
) -> None:
    """The release's statement is made anew at each build: over what lies there, but not blindly."""
    (dist / name).write_bytes(b"<script>evil()</script>")
    publish_toy(dist, "toy", toy, signer)
    assert not (dist / name).exists()
    assert (dist / ({"index.html", "latency.json"} - {name}).pop()).exists()
    verify.verify(dist, key.public_pem)


def test_a_release_without_a_page_is_one_too(
    dist: Path, key: SigningKey, signer: KeySigner
) -> None:
    for name in PAGE:
        (dist / name).unlink()
    publish.refresh_sums(dist, signer)
    verify.verify(dist, key.public_pem)


@pytest.fixture
def old(dist: Path, signer: KeySigner, tmp_path: Path) -> Path:
    """A release as kiln made it before there was a statement about the whole."""
    page = tmp_path / "old" / "page"
    page.mkdir(parents=True)
    for name in PAGE:
        shutil.copy(dist / name, page)
    signer.sign_folder(page)
    shutil.copy(page / "model.sig", dist / "page.sig")
    (dist / "release.sigstore.json").unlink()
    sum_again(dist)
    return dist


def test_an_old_release_becomes_a_new_one(
    old: Path, key: SigningKey, signer: KeySigner, toy: ToyModel
) -> None:
    message = refused(old, key.public_pem).message
    assert "page.sig: does not belong to a release" in message
    assert "release.sigstore.json: is missing" in message
    publish.check_target(old)
    assert publish_toy(old, "toy", toy, signer) is False
    assert not (old / "page.sig").exists()
    assert {name: (old / name).read_bytes() for name in PAGE} == PAGE
    verify.verify(old, key.public_pem)


def test_of_an_old_release_only_what_was_signed_stays(
    old: Path, key: SigningKey, signer: KeySigner
) -> None:
    (old / "index.html").write_text("other")
    publish.refresh_sums(old, signer)
    assert sorted(path.name for path in old.iterdir() if path.is_file()) == [
        *("SHA256SUMS", "accuracy.json", "kiln.pub", "latency.json", "release.sigstore.json")
    ]
    shutil.copy(old / "toy" / "model.sig", old / "page.sig")  # a signature, but of no page
    (old / "release.sigstore.json").unlink()
    publish.refresh_sums(old, signer)
    assert not (old / "latency.json").exists()
    verify.verify(old, key.public_pem)
