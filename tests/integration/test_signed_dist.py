"""What signatures and sums of a real release catch, by kiln and without it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import SAMPLE, Kiln


@pytest.fixture
def release(sample: Any, tmp_path: Path) -> Iterator[Kiln]:
    """A copy of the sample's dist to spoil."""
    shutil.copytree(sample.kiln.dist, tmp_path / "dist")
    yield sample.kiln.but(dist=tmp_path / "dist")


def test_untouched(release: Kiln) -> None:
    out = release("verify", "--all", release.dist).ok().out
    assert f"{SAMPLE}_float32.tflite" in out
    assert "nothing changed, missing or added" in out


@pytest.mark.parametrize(
    "name",
    [f"{SAMPLE}_float32.tflite", f"{SAMPLE}_dynamic.tflite", "labelmap.txt", "conversion.json",
     "model.sig", "source.tar", f"attestations/{SAMPLE}_int8.tflite.provenance.sigstore.json",
     f"attestations/{SAMPLE}_int8.tflite.test-result.sigstore.json"],
)  # fmt: skip
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_any_flipped_bit(release: Kiln, name: str, where: float) -> None:
    path = release.dist / SAMPLE / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)
    release("verify", release.dist).refused(41, name)


@pytest.mark.parametrize("name", ["SHA256SUMS", "kiln.pub", "release.sigstore.json"])
def test_flipped_beside_the_models(release: Kiln, name: str) -> None:
    path = release.dist / name
    data = bytearray(path.read_bytes())
    data[40] ^= 0x01
    path.write_bytes(data)
    release("verify", release.dist).refused(41, name)


@pytest.mark.parametrize(
    "name",
    [f"{SAMPLE}/{SAMPLE}_int8.tflite", f"{SAMPLE}/model.sig", f"{SAMPLE}/source.tar",
     "SHA256SUMS", "kiln.pub", "index.html", "release.sigstore.json"],
)  # fmt: skip
def test_missing(release: Kiln, name: str) -> None:
    (release.dist / name).unlink()
    release("verify", release.dist).refused(41, Path(name).name)


@pytest.mark.parametrize("name", [f"{SAMPLE}/extra.tflite", "extra.txt", ".hidden", "other/x"])
def test_added(release: Kiln, name: str) -> None:
    path = release.dist / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("extra")
    release("verify", release.dist).refused(41, name)


def test_exchanged_for_an_honest_other(release: Kiln) -> None:
    """Two files of the same release swapped: every byte is signed, but not under that name."""
    folder = release.dist / SAMPLE
    one, other = folder / f"{SAMPLE}_float32.tflite", folder / f"{SAMPLE}_float16.tflite"
    aside = folder / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    release("verify", release.dist).refused(41, one.name, other.name)


def test_foreign_signature(release: Kiln, tmp_path: Path) -> None:
    """Someone else's release of the same bytes is not ours."""
    stranger = release.but(home=tmp_path / "stranger", dist=tmp_path / "theirs")
    stranger.home.mkdir()
    stranger("build", SAMPLE).ok()
    stranger("verify", stranger.dist).ok()
    release("verify", stranger.dist).refused(41, "another key")
    release("verify", stranger.dist, "--key", stranger.dist / "kiln.pub").ok()


def test_model_signing_accepts_it_by_itself(release: Kiln) -> None:
    folder = release.dist / SAMPLE
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", str(folder),
        "--signature", str(folder / "model.sig"),
        "--public_key", str(release.dist / "kiln.pub"),
        "--ignore-paths", str(folder / "model.sig"),
    ]  # fmt: skip
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout + good.stderr
    (folder / "labelmap.txt").write_text("item {\n")
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode != 0


def test_sha256sum_accepts_it_by_itself(release: Kiln) -> None:
    command = ["sha256sum", "--strict", "--check", "SHA256SUMS"]
    good = subprocess.run(command, cwd=release.dist, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.count(": OK") == sum(p.is_file() for p in release.dist.rglob("*")) - 2
    (release.dist / SAMPLE / "labelmap.txt").write_text("item {\n")
    bad = subprocess.run(command, cwd=release.dist, capture_output=True, check=False)
    assert bad.returncode != 0


def test_the_key_is_private(sample: Any) -> None:
    keys = list(sample.kiln.home.rglob("signing-key.pem"))
    assert len(keys) == 1
    assert keys[0].stat().st_mode & 0o777 == 0o600
