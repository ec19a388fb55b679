"""One release out of parts; the same as flat files; what is written on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import page_dist
import pytest
from places import ROOT
from release_parts import content, make_part, rows

from kiln.core.errors import UsageError, VerificationError
from kiln.release import publish, verify
from kiln.release.assets import write_assets
from kiln.release.collect import collect
from kiln.release.notes import notes
from kiln.signing import keys
from kiln.signing.signer import KeySigner
from kiln.signing.trust import Trust, trust_in_key


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeySigner:
    return KeySigner(keys.load_or_create_key(tmp_path_factory.mktemp("key") / "k.pem"))


def trusting(signer: KeySigner) -> Trust:
    """Trusts its key with everything."""
    return trust_in_key(signer.public_pem)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, key: KeySigner) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for model in ("alpha", "beta"):
        make_part(root / model, model, key)
    return root


@pytest.fixture
def parts(made: Path, tmp_path: Path) -> list[Path]:
    copy = shutil.copytree(made, tmp_path / "parts")
    return [copy / "alpha" / "dist", copy / "beta" / "dist"]


def test_models_keep_their_bytes_and_signatures(
    parts: list[Path], tmp_path: Path, key: KeySigner
) -> None:
    dist = tmp_path / "all"
    done = collect(parts, dist, key, trusting(key))
    assert done.models == ("alpha", "beta")
    assert [model.name for model in verify.verify(dist, key.public_pem).models] == [*done.models]
    for part, model in zip(parts, done.models, strict=True):
        assert content(dist / model) == content(part / model)
    page = (dist / "index.html").read_text("utf-8")
    assert "alpha_int8.tflite" in page and "beta_int8.tflite" in page


def test_again_changes_nothing(parts: list[Path], tmp_path: Path, key: KeySigner) -> None:
    dist = tmp_path / "all"
    collect(parts, dist, key, trusting(key))
    before = content(dist)
    collect(parts, dist, key, trusting(key))
    assert content(dist) == before


def test_a_part_signed_again_replaces_the_signature(
    parts: list[Path], tmp_path: Path, key: KeySigner
) -> None:
    dist = tmp_path / "all"
    collect(parts, dist, key, trusting(key))
    other = make_part(tmp_path / "again", "alpha", key)  # signatures differ each time
    assert not publish.adopt(dist, [parts[0] / "alpha"], key, trusting(key))
    collect([other], dist, key, trusting(key))
    assert (dist / "alpha/model.sig").read_bytes() == (other / "alpha/model.sig").read_bytes()
    assert {model.name for model in verify.verify(dist, key.public_pem).models} == {
        *("alpha", "beta")
    }


def damage(part: Path) -> None:
    path = part / "beta" / "beta_int8.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def add(part: Path) -> None:
    (part / "beta" / "more.txt").write_text("more")


def drop(part: Path) -> None:
    (part / "beta" / "labelmap.txt").unlink()


@pytest.mark.parametrize("change", [damage, add, drop])
def test_a_part_that_does_not_verify_stops_all(
    change: object, parts: list[Path], tmp_path: Path, key: KeySigner
) -> None:
    assert callable(change)
    change(parts[1])
    with pytest.raises(VerificationError, match="beta/"):
        collect(parts, tmp_path / "all", key, trusting(key))
    assert not (tmp_path / "all").exists()


def test_another_signer_is_refused(parts: list[Path], tmp_path: Path, key: KeySigner) -> None:
    other = KeySigner(keys.load_or_create_key(tmp_path / "other.pem"))
    foreign = make_part(tmp_path / "foreign", "gamma", other)
    with pytest.raises(VerificationError):
        collect([*parts, foreign], tmp_path / "all", key, trusting(key))
    assert not (tmp_path / "all").exists()
    with pytest.raises(VerificationError, match="does not match a trusted signature"):
        publish.adopt(tmp_path / "all", [foreign / "gamma"], key, trusting(key))
    assert not (tmp_path / "all" / "gamma").exists()


def test_what_does_not_go_together(parts: list[Path], tmp_path: Path, key: KeySigner) -> None:
    twin = shutil.copytree(parts[0], tmp_path / "twin")
    with pytest.raises(UsageError, match=r"'alpha' is in .*twin"):
        collect([*parts, twin], tmp_path / "all", key, trusting(key))
    with pytest.raises(UsageError, match="into itself"):
        collect(parts, parts[0], key, trusting(key))


# --- flat files --------------------------------------------------------------------------------


@pytest.fixture
def dist(parts: list[Path], tmp_path: Path, key: KeySigner) -> Path:
    collect(parts, tmp_path / "all", key, trusting(key))
    return tmp_path / "all"


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_assets(dist: Path, tmp_path: Path, key: KeySigner) -> None:
    out = tmp_path / "assets"
    names = [path.name for path in write_assets(dist, "v1.2", out)]
    loose = [
        f"{model}_{kind}.tflite" for model in ("alpha", "beta") for kind in ("float32", "int8")
    ]
    assert set(names) >= {"SHA256SUMS", "kiln.pub", "tflite-kiln-v1.2.tar", *loose}
    checked = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(checked, cwd=out, check=True, capture_output=True)
    assert len((out / "SHA256SUMS").read_text().splitlines()) == len(names) - 1
    subprocess.run(["tar", "-xf", out / "tflite-kiln-v1.2.tar"], cwd=tmp_path, check=True)
    assert content(tmp_path / "tflite-kiln-v1.2") == content(dist)
    verify.verify(tmp_path / "tflite-kiln-v1.2", key.public_pem)
    assert (out / "alpha_int8.tflite").read_bytes() == (
        dist / "alpha/alpha_int8.tflite"
    ).read_bytes()


@pytest.mark.usefixtures("umask")
def test_the_archive_has_the_same_bytes_anywhere(dist: Path, tmp_path: Path) -> None:
    first = write_assets(dist, "v1", tmp_path / "assets")
    before = {path.name: path.read_bytes() for path in first}
    other = tmp_path / "elsewhere" / "copy"
    shutil.copytree(dist, other, copy_function=shutil.copy)  # other times
    for path in sorted(other.rglob("*"), reverse=True):
        path.chmod(0o700 if path.is_dir() else 0o640)
    assert {p.name: p.read_bytes() for p in write_assets(other, "v1", tmp_path / "b")} == before
    with tarfile.open(tmp_path / "b" / "tflite-kiln-v1.tar") as tar:
        members = tar.getmembers()
    assert [item.name for item in members] == sorted(item.name for item in members)
    assert {(m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in members} == {
        (0, 0, "", "", 0o644, True)
    }


def test_assets_replace_assets_and_nothing_else(dist: Path, tmp_path: Path) -> None:
    out = tmp_path / "assets"
    write_assets(dist, "v1", out)
    assert {path.name for path in write_assets(dist, "v2", out)} >= {"tflite-kiln-v2.tar"}
    assert not (out / "tflite-kiln-v1.tar").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="other things"):
        write_assets(dist, "v1", mine)
    assert content(mine) == {"thesis.txt": b"precious"}


@pytest.mark.parametrize("name", ["", "../v1", "a b", "-v1", "v1/2"])
def test_impossible_ids(name: str, dist: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="id of a release"):
        write_assets(dist, name, tmp_path / "assets")


# --- notes -------------------------------------------------------------------------------------


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """Two models as a build leaves them, checked; not signed."""
    for model in ("alpha", "beta"):
        folder = page_dist.toy_dist(tmp_path / "noted", model)
        page_dist.add_checks(folder, page_dist.toy_images(tmp_path / "images"))
    return tmp_path / "noted"


def test_notes_have_a_row_for_every_file(noted: Path) -> None:
    text = notes(noted, "v1.2")
    found = {row[1]: row for row in rows(text)}
    assert len(found) == 4
    for path in noted.glob("*/*.tflite"):
        row = next(row for cell, row in found.items() if path.name in cell)
        assert row[2] == f"{path.stat().st_size:,}"
        assert row[3] == "8 passed"
        assert row[4] == f"`{page_dist.sha256(path)}`"
    assert "`alpha_int8.tflite` (default)" in found
    assert f"sha256:{'3' * 64}" in text
    assert "kiln verify tflite-kiln-v1.2.tar" in text


def test_notes_say_how_to_verify(noted: Path) -> None:
    key_id = page_dist.sha256(noted / "kiln.pub")
    assert f"Signed by the key `{key_id}`" in notes(noted, "v1")
    (noted / "kiln.pub").unlink()
    identity = "https://github.com/me/models/.github/workflows/release.yml@refs/tags/v1"
    text = notes(noted, "v1", identity)
    assert f"kiln verify tflite-kiln-v1.tar --identity {identity} --issuer https://" in text
    assert "--key" not in text
    assert "--identity '<who released it>'" in notes(noted, "v1")


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    title = "x | y <img src=x>\n\n# [a](b) @everyone `c`"
    folder = page_dist.toy_dist(tmp_path / "dist", "hostile", title)
    page_dist.change(folder / "conversion.json", licence="<b>| `")
    text = notes(tmp_path / "dist", "v1")
    assert [len(row) for row in rows(text)] == [5, 5]
    assert "<img" not in text.replace("\\<img", "")
    assert "\n# " not in text
    assert "[a](b)" not in text


def test_the_commands(parts: list[Path], tmp_path: Path, key: KeySigner) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "scripts"),
        "KILN_SIGNING_KEY": str(key.key.private_path),
        "KILN_RELEASE": "v7",
    }

    def kiln(*args: str | Path, code: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "kiln.cli", *map(str, args)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    dist, out = tmp_path / "made", tmp_path / "assets"
    said = kiln("collect", *parts, "--dist", dist, "--assets", out)
    assert "verifies" in said and "alpha" in said
    assert (out / "tflite-kiln-v7.tar").is_file()
    before = content(out)
    kiln("collect", "--dist", dist, "--assets", out, "--json")
    assert content(out) == before
    assert "kiln verify tflite-kiln-v7.tar" in kiln("notes", dist)
    assert "nothing to collect" in kiln("collect", "--dist", dist, code=2)
    assert "holds no model" in kiln("notes", tmp_path, code=2)
    damage(parts[1])
    assert "beta/beta_int8.tflite" in kiln("collect", *parts, "--dist", tmp_path / "no", code=41)
