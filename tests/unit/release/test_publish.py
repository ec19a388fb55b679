"""dist: published as a whole."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import PATIENCE
from published import ARTEFACTS, PAGE, publish_toy, refused, snapshot, spoil_artefact
from small_disk import make_read_only, small_disk
from toy_release import ToyModel, toy_model

from kiln.core.digest import sha256_bytes
from kiln.core.errors import DiskFullError, KilnError, StoreError, UsageError
from kiln.release import publish, verify
from kiln.signing import keys, model_signature
from kiln.signing.keys import SigningKey
from kiln.signing.signer import KeySigner


def test_a_release_holds_what_was_given_and_verifies(
    tmp_path: Path, key: SigningKey, signer: KeySigner, toy: ToyModel
) -> None:
    source = tmp_path / "blob"
    source.write_bytes(toy.files["toy_float32.tflite"])
    source.chmod(0o400)
    old = os.umask(0o077)  # the user's umask must not show in the release
    try:
        assert publish.publish(
            tmp_path / "a" / "dist",
            "toy",
            {**toy.files, "toy_float32.tflite": source},
            signer,
            toy.statements,
        )
    finally:
        os.umask(old)
    dist = tmp_path / "a" / "dist"
    got = snapshot(dist)
    assert set(got) == {
        "SHA256SUMS",
        "kiln.pub",
        "release.sigstore.json",
        "toy/model.sig",
        *(f"toy/{name}" for name in toy.files),
        *(f"toy/attestations/toy_{v}.tflite.provenance.sigstore.json" for v in ARTEFACTS),
        *(f"toy/attestations/toy_{v}.tflite.test-result.sigstore.json" for v in ARTEFACTS),
    }
    for name, content in toy.files.items():
        assert got[f"toy/{name}"] == content
    assert got["kiln.pub"] == key.public_pem
    for path in (dist / "toy").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)
    assert (dist / "toy" / "toy_float32.tflite").stat().st_nlink == 1, "a copy, not a link"
    report = verify.verify(dist, key.public_pem)
    assert report.signers == (f"key {key.key_id[:16]}",)
    (model,) = report.models
    assert model.name == "toy"
    assert report.release == "local"
    assert [file.path for file in model.files] == sorted(n for n in got if n.startswith("toy/"))
    assert {file.path: (file.size, file.sha256) for file in model.files} == {
        path: (len(data), hashlib.sha256(data).hexdigest())
        for path, data in got.items()
        if path.startswith("toy/")
    }


def test_sums_are_those_of_sha256sum(dist: Path) -> None:
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=dist, check=True
    )
    lines = (dist / "SHA256SUMS").read_bytes().splitlines()
    paths = [line[66:] for line in lines]
    assert paths == sorted(paths)
    assert {path.decode() for path in paths} == snapshot(dist).keys() - {
        "SHA256SUMS",
        "release.sigstore.json",
    }


def test_an_identical_release_is_left_alone(dist: Path, signer: KeySigner, toy: ToyModel) -> None:
    def stamps() -> dict[Path, tuple[int, int]]:
        return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in [dist, *dist.rglob("*")]}

    before = stamps()
    assert publish_toy(dist, "toy", toy, signer) is False
    publish.refresh_sums(dist, signer)
    assert stamps() == before


@pytest.mark.parametrize(
    "change",
    [
        {"labelmap.txt": b"cat\n"},
        {"new.txt": b""},
        {"labelmap.txt": None},
    ],
)
def test_a_changed_release_replaces_the_folder(
    dist: Path,
    key: SigningKey,
    signer: KeySigner,
    toy: ToyModel,
    change: dict[str, bytes | None],
) -> None:
    before = snapshot(dist)
    together: dict[str, bytes | None] = {**toy.files, **change}
    files = {name: data for name, data in together.items() if data is not None}
    assert publish.publish(dist, "toy", files, signer, toy.statements) is True
    after = snapshot(dist)
    assert snapshot(dist / "toy").keys() == {*files, *toy.statements, "model.sig"}
    # Signatures differ at each signing: what is stated as before was not signed again.
    for path in ("other/model.sig", *(f"toy/{path}" for path in toy.statements)):
        assert after[path] == before[path]
    assert after["toy/model.sig"] != before["toy/model.sig"]
    assert after["release.sigstore.json"] != before["release.sigstore.json"]
    verify.verify(dist, key.public_pem)


def test_a_changed_statement_is_signed_and_no_other(
    dist: Path, signer: KeySigner, toy: ToyModel
) -> None:
    before = snapshot(dist / "toy")
    path = "attestations/toy_float32.tflite.provenance.sigstore.json"
    stated = {**toy.statements, path: {**toy.statements[path], "predicate": {}}}
    assert publish.publish(dist, "toy", toy.files, signer, stated) is True
    after = snapshot(dist / "toy")
    assert {name for name in after if after[name] != before[name]} == {path, "model.sig"}
    assert signer.open_bundle(after[path])["predicate"] == {}


def spoil_link(dist: Path) -> None:
    (dist / "toy").rename(dist.parent / "elsewhere")
    (dist / "toy").symlink_to(dist.parent / "elsewhere")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_artefact,
        spoil_link,
        lambda d: (d / "toy" / "model.sig").write_text("{}"),
        lambda d: (d / "toy" / "extra").write_text(""),
        lambda d: (d / "toy" / "empty").mkdir(),
        lambda d: (d / "toy" / "labelmap.txt").unlink(),
        lambda d: shutil.rmtree(d / "toy" / "attestations"),
        lambda d: next((d / "toy" / "attestations").iterdir()).write_text("{}"),
    ],
)
def test_publishing_again_repairs_a_spoilt_folder(
    dist: Path,
    key: SigningKey,
    signer: KeySigner,
    toy: ToyModel,
    spoil: Callable[[Path], object],
) -> None:
    spoil(dist)
    assert publish_toy(dist, "toy", toy, signer) is True
    verify.verify(dist, key.public_pem)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: (d / "SHA256SUMS").unlink(),
        lambda d: (d / "SHA256SUMS").write_text("x"),
        lambda d: (d / "kiln.pub").write_text("x"),
        lambda d: (
            (d / "release.sigstore.json").rename(d / "release.sigstore.json.bak")
            and (d / "release.sigstore.json.bak").rename(d / ".x.1-2-abcdef01.00ff.aside")
        ),
        lambda d: (d / ".toy.1-2-abcdef01.00ff.aside" / "toy").mkdir(parents=True),
        lambda d: (d / ".SHA256SUMS.1-2-abcdef01.00ff.aside").write_text("x"),
    ],
)
def test_publishing_again_repairs_what_an_interrupted_run_left(
    dist: Path,
    key: SigningKey,
    signer: KeySigner,
    toy: ToyModel,
    spoil: Callable[[Path], object],
) -> None:
    spoil(dist)
    refused(dist, key.public_pem)
    assert publish_toy(dist, "toy", toy, signer) is False, "the folder itself was whole"
    verify.verify(dist, key.public_pem)


def test_another_key_signs_anew(dist: Path, tmp_path: Path, toy: ToyModel, other: ToyModel) -> None:
    new = keys.load_or_create_key(tmp_path / "other.pem")
    assert publish_toy(dist, "toy", toy, KeySigner(new)) is True
    message = refused(dist, new.public_pem).message
    assert "other/model.sig: was made with another key" in message
    assert "toy/model.sig" not in message
    assert publish_toy(dist, "other", other, KeySigner(new)) is True
    assert publish.publish_page(dist, PAGE, KeySigner(new)) is True
    assert new.key_id[:16] in verify.verify(dist, new.public_pem).signers[0]


def test_a_folder_that_is_no_release_is_not_touched(
    tmp_path: Path, signer: KeySigner, toy: ToyModel
) -> None:
    home = tmp_path / "home"
    (home / "letters").mkdir(parents=True)
    (home / "letters" / "dear.txt").write_text("...")
    before = snapshot(home)
    with pytest.raises(UsageError, match="'letters'"):
        publish_toy(home, "toy", toy, signer)
    with pytest.raises(UsageError, match="'letters'"):
        publish.check_target(home)
    assert snapshot(home) == before
    publish.check_target(tmp_path / "not there yet")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Not a directory"):
        publish.check_target(tmp_path / "file")
    with pytest.raises(StoreError, match="file"):
        publish_toy(tmp_path / "file", "toy", toy, signer)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("../toy", "a"),
        ("", "a"),
        (".toy", "a"),
        ("Toy/x", "a"),
        *[("toy", n) for n in ("", "/a", "../a", "a/../b", "a//b", "./a", "a/", ".a", "b/.a")],
        *[("toy", n) for n in ("a\nb", "a\\b", "model.sig", "a\x1b", "\udcff")],
    ],
)
def test_impossible_names_are_refused(
    tmp_path: Path, signer: KeySigner, model: str, name: str
) -> None:
    with pytest.raises(StoreError):
        publish.publish(tmp_path / "dist", model, {name: b""}, signer)
    with pytest.raises(StoreError):
        publish.publish(tmp_path / "dist", model, {"a": b""}, signer, {name: {}})
    assert not (tmp_path / "dist").exists()


def test_a_model_without_files_is_refused(tmp_path: Path, signer: KeySigner) -> None:
    with pytest.raises(StoreError, match="no files"):
        publish.publish(tmp_path / "dist", "toy", {}, signer)


@pytest.mark.parametrize("name", ["-x", "a b", "a/b", "x" * 101, "é"])
def test_impossible_names_of_releases_are_refused(
    tmp_path: Path, signer: KeySigner, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("KILN_RELEASE", name)
    with pytest.raises(UsageError, match="KILN_RELEASE"):
        publish.publish(tmp_path / "dist", "toy", {"a": b""}, signer)
    assert not (tmp_path / "dist").exists()


def test_a_release_has_a_name(
    dist: Path, key: SigningKey, signer: KeySigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILN_RELEASE", "v1.2.0")
    publish.refresh_sums(dist, signer)
    assert verify.verify(dist, key.public_pem).release == "v1.2.0"


def test_a_failed_publish_leaves_the_release_as_it_was(
    dist: Path, key: SigningKey, signer: KeySigner, toy: ToyModel
) -> None:
    before = snapshot(dist)
    with pytest.raises(StoreError, match="no-such-blob"):
        publish.publish(dist, "toy", {**toy.files, "x": dist.parent / "no-such-blob"}, signer)
    assert snapshot(dist) == before
    verify.verify(dist, key.public_pem)


def test_a_file_with_another_content_than_its_digest_s_is_not_signed(
    dist: Path, key: SigningKey, signer: KeySigner, toy: ToyModel
) -> None:
    before = snapshot(dist)
    path = dist.parent / "blob"
    path.write_bytes(b"what it was")
    pinned = publish.Pinned(path, sha256_bytes(b"what it was"))
    path.write_bytes(b"what it is.")
    with pytest.raises(StoreError, match=f"labelmap.txt.*{pinned.sha256}"):
        publish.publish(dist, "toy", {**toy.files, "labelmap.txt": pinned}, signer)
    assert snapshot(dist) == before
    path.write_bytes(b"what it was")
    files = {**toy.files, "labelmap.txt": pinned}
    assert publish.publish(dist, "toy", files, signer, toy.statements)
    assert (dist / "toy" / "labelmap.txt").read_bytes() == b"what it was"
    verify.verify(dist, key.public_pem)
    path.unlink()  # a release that is so already needs no look at it
    assert not publish.publish(dist, "toy", files, signer, toy.statements)


def test_a_read_only_dist_is_called_so(
    dist: Path, key: SigningKey, signer: KeySigner, toy: ToyModel, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        there = Path(shutil.copytree(dist, disk / "dist"))
        make_read_only(disk)
        # What is published already needs no writing.
        assert publish.publish(there, "toy", toy.files, signer, toy.statements) is False
        for write in (
            lambda: publish.publish(there, "toy", {**toy.files, "more": b"x"}, signer),
            lambda: publish.publish(disk / "new", "toy", toy.files, signer),
            lambda: publish.publish_page(there, {"index.html": b"another"}, signer),
        ):
            with pytest.raises(StoreError, match="Read-only file system") as caught:
                write()
            assert "--dist" in caught.value.remedy


def test_a_dist_that_can_hold_no_more_files(
    dist: Path, key: SigningKey, signer: KeySigner, toy: ToyModel, tmp_path: Path
) -> None:
    before = snapshot(dist)
    with small_disk(tmp_path / "disk", "64m", inodes=len(before) + 20) as disk:
        there = Path(shutil.copytree(dist, disk / "dist"))
        more = {f"more/{number}": b"x" for number in range(40)}
        with pytest.raises(DiskFullError, match="no free inodes"):
            publish.publish(there, "toy", {**toy.files, **more}, signer, toy.statements)
        assert snapshot(there) == before
        verify.verify(there, key.public_pem)


def _limited_publish(dist: Path, signer: KeySigner, out: object) -> None:
    # A file size limit is the nearest thing to a full disk that needs no privilege; the kernel
    # reports EFBIG, which is turned into the error number of a full disk.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        publish.publish(dist, "toy", {"a": b"", "big": b"x" * 100_000}, signer)
        out.put("published")  # type: ignore[attr-defined]
    except KilnError as error:
        out.put(f"{type(error).__name__}: {error.message}")  # type: ignore[attr-defined]


def test_a_write_that_fails_half_way_leaves_the_release_as_it_was(
    dist: Path, signer: KeySigner
) -> None:
    before = snapshot(dist)
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    child = context.Process(target=_limited_publish, args=(dist, signer, out))
    child.start()
    answer = out.get(timeout=PATIENCE)
    child.join(PATIENCE)
    assert answer.startswith("StoreError: Cannot write the release"), answer
    assert os.strerror(errno.EFBIG) in answer
    assert snapshot(dist) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_has_its_own_error(
    tmp_path: Path,
    key: SigningKey,
    signer: KeySigner,
    toy: ToyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def to_full_device(self: Path, data: bytes) -> int:
        with Path("/dev/full").open("wb", buffering=0) as device:
            return device.write(data)

    monkeypatch.setattr(Path, "write_bytes", to_full_device)
    with pytest.raises(DiskFullError):
        publish_toy(tmp_path / "dist", "toy", toy, signer)
    monkeypatch.undo()
    assert snapshot(tmp_path / "dist") == {}
    publish_toy(tmp_path / "dist", "toy", toy, signer)
    verify.verify(tmp_path / "dist", key.public_pem)


def _publish_counted(
    dist: Path, files: dict[str, bytes], signer: KeySigner, end: int, out: object
) -> None:
    """Publish and say how many audit events that was; killed at the event of number ``end``."""
    count = 0

    def hook(event: str, args: object) -> None:
        nonlocal count
        count += 1
        if count == end:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    publish.publish(dist, "toy", files, signer)
    out.put(count)  # type: ignore[attr-defined]


def _publish_toy(dist: Path, name: str, model: ToyModel, signer: KeySigner) -> None:
    publish_toy(dist, name, model, signer)


def test_processes_that_publish_at_once_leave_a_whole_release(
    tmp_path: Path, key: SigningKey, signer: KeySigner
) -> None:
    dist = tmp_path / "dist"
    context = multiprocessing.get_context("fork")
    work = [
        (f"m{n % 3}", toy_model(tmp_path / str(n), f"m{n % 3}", {"float32": bytes([n]) * 1000}))
        for n in range(6)
    ]
    children = [context.Process(target=_publish_toy, args=(dist, m, f, signer)) for m, f in work]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
        assert child.exitcode == 0
    assert [model.name for model in verify.verify(dist, key.public_pem).models] == [
        "m0",
        "m1",
        "m2",
    ]


def test_a_killed_publish_never_shows_half_a_model(
    dist: Path, key: SigningKey, signer: KeySigner, toy: ToyModel
) -> None:
    """Killed between what Python does with files, from the first to the last of it."""
    model_signature.sign_folder(dist / "toy", key)  # the children need not import the library
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    versions = [{"a": bytes([n]) * 2_000_000, "b": bytes([n])} for n in range(2)]

    def child(files: dict[str, bytes], end: int) -> int | None:
        process = context.Process(target=_publish_counted, args=(dist, files, signer, end, out))
        process.start()
        process.join(PATIENCE)
        return process.exitcode

    publish.publish(dist, "toy", versions[0], signer)
    assert child(versions[1], 0) == 0
    whole = out.get(timeout=PATIENCE)
    shown, seen = versions[1], set()
    for number in range(24):
        files = versions[shown == versions[0]]  # the same again would be left alone
        assert child(files, 1 + number * (whole - 1) // 23) == -signal.SIGKILL
        model_signature.verify_folder(dist / "toy", key.public_pem)
        shown = {name: data for name, data in snapshot(dist / "toy").items() if name != "model.sig"}
        assert shown in versions
        seen.add(shown == files)
    assert seen == {False, True}, "killed before and after the new files are there"
    publish_toy(dist, "toy", toy, signer)
    verify.verify(dist, key.public_pem)
    assert not [path.name for path in dist.iterdir() if path.name.startswith(".")]
