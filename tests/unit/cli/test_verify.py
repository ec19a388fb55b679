"""``kiln verify`` as it is called: what to verify, whom to trust, what is printed."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from local_sigstore import ISSUER, WORKFLOW, LocalSigstore
from places import SCRIPTS
from small_release import MODELS, make_release

from kiln.cli.verify import verify
from kiln.core.errors import UsageError, VerificationError
from kiln.signing.keys import SigningKey
from kiln.signing.signer import SIGN_VARIABLE, own_signer


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory, key: SigningKey) -> Path:
    made = tmp_path_factory.mktemp("release") / "dist"
    make_release(made, key, 1)
    return made


def kiln(*arguments: object) -> str:
    result = CliRunner().invoke(verify, [str(one) for one in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_and_archives_of_it(dist: Path, key: SigningKey, tmp_path: Path) -> None:
    said = kiln(dist, "--key", key.public_path)
    assert f"3 models of the release 'local', signed by key {key.key_id[:16]}" in said
    assert "nothing changed, missing or added" in said
    head, *models, empty, _ = said.splitlines()
    assert head.split() == ["model", "artefacts", "files", "bytes"]
    assert [line.split()[:2] for line in models] == [[name, "4"] for name in MODELS]
    assert empty == ""
    for form, name in (("gztar", "a.tar.gz"), ("tar", "b.tar"), ("zip", "c.zip")):
        stem = tmp_path / name.partition(".")[0]
        shutil.make_archive(str(stem), form, dist.parent, "dist")
        assert kiln(tmp_path / name, "--key", key.public_path) == said
    shutil.make_archive(str(tmp_path / "bare"), "zip", dist)
    assert kiln(tmp_path / "bare.zip", "--key", key.public_path) == said
    shown = events(kiln(tmp_path / "bare.zip", "--key", key.public_path, "--json"))
    assert {one["model"] for one in shown} == set(MODELS)
    assert all(one["signers"] == [f"key {key.key_id[:16]}"] for one in shown)


def test_every_file_is_listed_on_request(dist: Path, key: SigningKey) -> None:
    said = kiln(dist, "--key", key.public_path, "--all")
    rows = [line.split() for line in said.splitlines()[1:-2]]
    files = {
        (name, path.relative_to(dist / name).as_posix(), f"{path.stat().st_size:,}")
        for name in MODELS
        for path in (dist / name).rglob("*")
        if path.is_file()
    }
    assert {tuple(row[:3]) for row in rows} == files and len(rows) == len(files)
    sums = kiln(dist, "--key", key.public_path).splitlines()[1:-2]
    for name, row in zip(MODELS, (line.split() for line in sums), strict=True):
        sizes = [path.stat().st_size for path in (dist / name).rglob("*") if path.is_file()]
        assert row[2:] == [str(len(sizes)), f"{sum(sizes):,}"]
    listed = {(one["model"], one["file"]) for one in
              events(kiln(dist, "--key", key.public_path, "--json"))}  # fmt: skip
    assert listed == {row[:2] for row in files}


def test_a_changed_archive(
    dist: Path, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    copy = Path(shutil.copytree(dist, tmp_path / "dist"))
    (copy / MODELS[1] / "labelmap.txt").write_text("cat\n")
    shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path, "dist")
    with pytest.raises(VerificationError, match=f"{MODELS[1]}/labelmap.txt") as caught:
        kiln(tmp_path / "a.tar.gz", "--key", key.public_path)
    assert str(tmp_path / "a.tar.gz") in caught.value.message
    assert str(scratch) not in caught.value.message
    data = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(VerificationError, match=r"a\.tar\.gz"):
        kiln(tmp_path / "a.tar.gz", "--key", key.public_path)
    (tmp_path / "b.zip").write_bytes(b"junk")
    with pytest.raises(VerificationError, match=r"b\.zip"):
        kiln(tmp_path / "b.zip", "--key", key.public_path)
    assert not list(scratch.iterdir())


def test_a_release_in_a_git_checkout(dist: Path, key: SigningKey, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dist, tmp_path / "dist"))
    (copy / ".git").mkdir()
    (copy / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (copy / MODELS[0] / ".gitattributes").write_text("*.tflite filter=lfs\n")
    with pytest.raises(VerificationError) as caught:
        kiln(copy, "--key", key.public_path)
    assert "--ignore-git" in caught.value.remedy
    shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path, "dist")
    for target in (copy, tmp_path / "a.tar.gz"):
        *_, verdict, left_out = kiln(target, "--key", key.public_path, "--ignore-git").splitlines()
        assert verdict.startswith("All good: 3 models")
        assert left_out == f"Not looked at (--ignore-git): .git, {MODELS[0]}/.gitattributes."
    said = events(kiln(copy, "--key", key.public_path, "--ignore-git", "--json"))
    assert [one["path"] for one in said if one["event"] == "ignored"] == [
        ".git",
        f"{MODELS[0]}/.gitattributes",
    ]


def test_one_file(dist: Path, key: SigningKey, tmp_path: Path) -> None:
    name = f"{MODELS[0]}_int8.tflite"
    file = dist / MODELS[0] / name
    assert "its checks WARNED" in kiln(file, "--key", key.public_path)
    (one,) = events(kiln(file, "--key", key.public_path, "--json"))
    assert (one["model"], one["file"], one["result"]) == (MODELS[0], name, "WARNED")
    alone = Path(shutil.copy(file, tmp_path / name))
    with pytest.raises(VerificationError, match="no provenance"):
        kiln(alone, "--key", key.public_path)
    bundle = next((dist / MODELS[0] / "attestations").glob(f"{name}.provenance*"))
    assert "no test result" in kiln(alone, "--key", key.public_path, "--bundle", bundle)
    with pytest.raises(UsageError, match="--bundle"):
        kiln(dist, "--key", key.public_path, "--bundle", bundle)


def test_a_trust_file(dist: Path, key: SigningKey, tmp_path: Path) -> None:
    shutil.copy(key.public_path, tmp_path / "mine.pub")
    policy = tmp_path / "trust.toml"
    table = 'schema = 1\n[[signer]]\nname = "Me"\nkey = "mine.pub"\n'
    policy.write_text(table)
    assert f"signed by Me (key {key.key_id[:16]})" in kiln(dist, "--policy", policy)
    policy.write_text(f'{table}models = ["{MODELS[0]}"]\n')
    with pytest.raises(VerificationError) as caught:
        kiln(dist, "--policy", policy)
    for model in MODELS[1:]:
        assert f"{model}/model.sig: is signed by Me" in caught.value.message
        assert f"may not sign for the model '{model}'" in caught.value.message
    assert f"{MODELS[0]}/" not in caught.value.message
    policy.write_text(f'schema = 1\n[[signer]]\nkey_id = "{key.key_id}"\n')
    kiln(dist, "--policy", policy)
    kiln(dist / MODELS[0] / f"{MODELS[0]}_int8.tflite", "--policy", policy)


def test_what_a_trust_file_requires(dist: Path, key: SigningKey, tmp_path: Path) -> None:
    """The toys were made from a clean checkout, and one of their gates only warned."""
    shutil.copy(key.public_path, tmp_path / "mine.pub")
    file = dist / MODELS[0] / f"{MODELS[0]}_int8.tflite"
    policy = tmp_path / "trust.toml"
    for require, words in (
        ('clean_git = true\ntest_result = "WARNED"\nrepository = "https://example.com/*"', ""),
        ('test_result = "PASSED"', "has the test result WARNED"),
        ('repository = "https://example.org/*"', "comes from the repository https://example.com/"),
        (f'images = ["{"0" * 64}"]', "was made in the image"),
        ('builder = ["https://github.com/*"]', "was built by"),
    ):
        policy.write_text(f'schema = 1\n[[signer]]\nkey = "mine.pub"\n[require]\n{require}\n')
        for target in (dist, file):
            if words:
                with pytest.raises(VerificationError, match=file.name) as caught:
                    kiln(target, "--policy", policy)
                assert words in caught.value.message
            else:
                kiln(target, "--policy", policy)


def test_a_release_by_an_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dist, root = tmp_path / "dist", tmp_path / "root.json"
    monkeypatch.setenv(SIGN_VARIABLE, "keyless")
    with LocalSigstore().serve() as served:
        served.announce(tmp_path, monkeypatch)
        make_release(dist, own_signer(), 1)
    assert not (dist / "kiln.pub").exists()
    trusted = ["--identity", WORKFLOW, "--issuer", ISSUER, "--trusted-root", root]
    assert f"signed by {WORKFLOW} ({ISSUER})" in kiln(dist, *trusted)
    file = dist / MODELS[0] / f"{MODELS[0]}_int8.tflite"
    assert f"signed by {WORKFLOW}" in kiln(file, *trusted)
    for path in (dist / "release.sigstore.json", dist / MODELS[0] / "model.sig", file):
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(VerificationError, match=path.name):
            kiln(dist, *trusted)
        path.write_bytes(data)
    with pytest.raises(VerificationError, match="not trusted"):
        kiln(dist, "--identity", WORKFLOW + "x", *trusted[2:])
    (dist / "kiln.pub").write_bytes(b"x")
    with pytest.raises(VerificationError, match=r"kiln\.pub"):
        kiln(dist, *trusted)


def test_who_signs_is_said_in_a_known_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIGN_VARIABLE, "blood")
    with pytest.raises(UsageError, match="blood"):
        own_signer()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--identity", "me"],
        ["--issuer", "https://x.invalid"],
        ["--identity", "me", "--issuer", "x", "--key", "k.pub"],
        ["--policy", "p.toml", "--key", "k.pub"],
        ["--policy", "nowhere.toml"],
    ],
)
def test_what_does_not_go_together(dist: Path, arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        kiln(dist, *arguments)


@pytest.mark.parametrize("what", ["nowhere", "empty", "file.txt"])
def test_what_is_no_release(key: SigningKey, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(VerificationError, match=what):
        kiln(tmp_path / what, "--key", key.public_path)


def test_it_costs_little(dist: Path, key: SigningKey) -> None:
    """Less than two seconds of processor time for three models of four variants, as a process."""
    code = (
        "import sys\n"
        "from kiln.cli.verify import verify\n"
        "verify.main(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'sigstore', 'model_signing', 'docker'} & set(sys.modules), 'slow imports'"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, str(dist), "--key", str(key.public_path)],
        check=True,
        env={"PYTHONPATH": str(SCRIPTS)},
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 2
