"""dist: published as a whole, verified to the last bit."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_disk import make_read_only, small_disk
from toy_release import ToyModel, toy_model

from kiln.core.digest import sha256_bytes
from kiln.core.errors import (
    DiskFullError,
    KilnError,
    SigningKeyError,
    StoreError,
    UsageError,
    VerificationError,
)
from kiln.release import publish, verify
from kiln.release.layout import sums
from kiln.signing import keys, model_signature
from kiln.signing.keys import SigningKey
from kiln.signing.signer import KeySigner

ARTEFACTS = {"float32": bytes(range(256)) * 4, "dynamic": bytes(range(255, -1, -1)) * 2}
MORE = {"labelmap.txt": "person\ncafé\n".encode(), "previews/cat.jpg": b"\xff\xd8"}

PAGE = {
    "index.html": b"<!doctype html><title>A release</title>",
    "latency.json": b"{}",
    "accuracy.json": b"{ }",
}

Snapshot = dict[str, bytes]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return keys.load_or_create_key(tmp_path_factory.mktemp("key") / "k.pem")


@pytest.fixture(scope="module")
def signer(key: SigningKey) -> KeySigner:
    return KeySigner(key)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyModel:
    return toy_model(tmp_path_factory.mktemp("toy"), "toy", ARTEFACTS, MORE)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ToyModel:
    """Not checked, so without test results; of an image with a list of components."""
    return toy_model(
        tmp_path_factory.mktemp("other"),
        "other",
        {"dynamic": b"\x00" * 300},
        {"labelmap.txt": b"cat\n"},
        checked=False,
        sbom=b'{"bomFormat":"CycloneDX"}',
    )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, signer: KeySigner, toy: ToyModel, other: ToyModel
) -> Path:
    made = tmp_path_factory.mktemp("release") / "dist"
    publish_toy(made, "toy", toy, signer)
    publish_toy(made, "other", other, signer)
    publish.publish_page(made, PAGE, signer)
    return made


def publish_toy(dist: Path, name: str, model: ToyModel, signer: KeySigner) -> bool:
    return publish.publish(dist, name, model.files, signer, model.statements)


@pytest.fixture
def dist(finished: Path, tmp_path: Path) -> Path:
    """A release of two models that the test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "dist"))


def snapshot(folder: Path) -> Snapshot:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(dist: Path, public_pem: bytes) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify.verify(dist, public_pem)
    assert caught.value.remedy
    return caught.value


# --- publishing ----------------------------------------------------------------------------


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


def spoil_artefact(dist: Path) -> None:
    (dist / "toy" / "labelmap.txt").write_bytes(b"dog\n")


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
    answer = out.get(timeout=60)
    child.join(60)
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


def _publish(dist: Path, name: str, files: dict[str, bytes], signer: KeySigner) -> None:
    publish.publish(dist, name, files, signer)


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
        child.join(60)
        assert child.exitcode == 0
    assert [model.name for model in verify.verify(dist, key.public_pem).models] == [
        "m0",
        "m1",
        "m2",
    ]


def test_a_killed_publish_never_shows_half_a_model(
    dist: Path, key: SigningKey, signer: KeySigner, toy: ToyModel
) -> None:
    rng = random.Random(7)
    model_signature.sign_folder(
        dist / "toy", key
    )  # so that the children need not import the library
    context = multiprocessing.get_context("fork")
    versions = [{"a": bytes([n]) * 2_000_000, "b": bytes([n])} for n in range(2)]
    started = time.monotonic()
    publish.publish(dist, "toy", versions[0], signer)
    took = time.monotonic() - started
    killed = 0
    for attempt in range(24):
        files = versions[(attempt + 1) % 2]
        child = context.Process(target=_publish, args=(dist, "toy", files, signer))
        child.start()
        time.sleep(rng.uniform(0, 1.2 * took))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        killed += child.exitcode == -signal.SIGKILL
        model_signature.verify_folder(dist / "toy", key.public_pem)
        shown = {name: data for name, data in snapshot(dist / "toy").items() if name != "model.sig"}
        assert shown in versions
    assert killed >= 4, "too fast to be killed: the test proves nothing"
    publish_toy(dist, "toy", toy, signer)
    verify.verify(dist, key.public_pem)
    assert not [path.name for path in dist.iterdir() if path.name.startswith(".")]


# --- verifying -----------------------------------------------------------------------------


def flip(dist: Path, rng: random.Random) -> list[str]:
    path = rng.choice([p for p in sorted(dist.rglob("*")) if p.is_file()])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return [path.relative_to(dist).as_posix()]


def cut(dist: Path, rng: random.Random) -> list[str]:
    path = rng.choice([p for p in sorted(dist.rglob("*")) if p.is_file()])
    path.write_bytes(path.read_bytes()[: -rng.randint(1, 3)])
    return [path.relative_to(dist).as_posix()]


def grow(dist: Path, rng: random.Random) -> list[str]:
    path = rng.choice([p for p in sorted(dist.rglob("*")) if p.is_file()])
    with path.open("ab") as file:
        file.write(rng.choice([b"\n", b" ", b"\0", b"x"]))
    return [path.relative_to(dist).as_posix()]


def drop(dist: Path, rng: random.Random) -> list[str]:
    path = rng.choice([p for p in sorted(dist.rglob("*")) if p.is_file()])
    path.unlink()
    return [path.relative_to(dist).as_posix()]


def drop_model(dist: Path, rng: random.Random) -> list[str]:
    path = rng.choice([dist / "toy", dist / "other"])
    shutil.rmtree(path)
    return [f"{path.name}/model.sig", f"{path.name}/labelmap.txt"]


def add(dist: Path, rng: random.Random) -> list[str]:
    where = rng.choice(["", "toy/", "other/", "new/", "toy/sub/", ".git/", "toy/.git/"])
    what = where + rng.choice(["new", ".gitignore", "SHA256SUMS.asc", "kiln.pub.bak", "é", "a b"])
    (dist / what).parent.mkdir(exist_ok=True)
    (dist / what).write_bytes(rng.choice([b"", b"x"]))
    return [what]


def add_odd(dist: Path, rng: random.Random) -> list[str]:
    what = rng.choice(["", "toy/", "other/"]) + "odd"
    makers: list[Callable[[], object]] = [
        lambda: (dist / what).mkdir(),
        lambda: (dist / what).symlink_to("nowhere"),
        lambda: (dist / what).symlink_to(dist / "toy"),
        lambda: os.mkfifo(dist / what),
    ]
    rng.choice(makers)()
    return [what]


def rename(dist: Path, rng: random.Random) -> list[str]:
    path = rng.choice([p for p in sorted(dist.rglob("*")) if p.is_file()])
    new = path.with_name(path.name + rng.choice(["x", ".bak", "~"]))
    path.rename(new)
    return [path.relative_to(dist).as_posix(), new.relative_to(dist).as_posix()]


def rename_model(dist: Path, rng: random.Random) -> list[str]:
    name = rng.choice(["toy", "other"])
    (dist / name).rename(dist / f"{name}2")
    return [f"{name}2/model.sig", f"{name}/labelmap.txt"]


def swap(dist: Path, rng: random.Random) -> list[str]:
    one, two = rng.sample([p for p in sorted(dist.rglob("*")) if p.is_file()], 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return [one.relative_to(dist).as_posix(), two.relative_to(dist).as_posix()]


def link(dist: Path, rng: random.Random) -> list[str]:
    path = rng.choice([p for p in sorted(dist.rglob("*")) if p.is_file()])
    outside = dist.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    return [path.relative_to(dist).as_posix()]


def reorder(dist: Path, rng: random.Random) -> list[str]:
    path = dist / "SHA256SUMS"
    lines = path.read_bytes().splitlines(keepends=True)
    one, two = rng.sample(range(len(lines)), 2)
    lines[one], lines[two] = lines[two], lines[one]
    path.write_bytes(b"".join(lines))
    return ["SHA256SUMS"]


def respell(dist: Path, rng: random.Random) -> list[str]:
    path = dist / "SHA256SUMS"
    data = path.read_bytes()
    path.write_bytes(
        rng.choice(
            [
                data.replace(b"\n", b"\r\n"),
                data.replace(b"  ", b" *"),
                data + data.splitlines(keepends=True)[0],
                b"# sums\n" + data,
                data.upper(),
                b"",
            ]
        )
    )
    return ["SHA256SUMS"]


MUTATIONS = [
    *(flip, flip, flip, cut, grow, drop, drop_model, add, add_odd),
    *(rename, rename_model, swap, link, reorder, respell),
]


@pytest.mark.parametrize("seed", range(4))  # test_mutations.py does thousands
def test_every_mutation_is_found_and_named(
    finished: Path, tmp_path: Path, key: SigningKey, seed: int
) -> None:
    rng = random.Random(seed)
    for number in range(90):
        place = tmp_path / str(number)
        dist = Path(shutil.copytree(finished, place / "dist"))
        mutate = MUTATIONS[number % len(MUTATIONS)]
        named = mutate(dist, rng)
        message = refused(dist, key.public_pem).message
        for path in named:
            assert path in message, f"{mutate.__name__}: {path} is not named in: {message}"
        shutil.rmtree(place)


@pytest.mark.parametrize(
    "name", ["toy/model.sig", "SHA256SUMS", "kiln.pub", "release.sigstore.json"]
)
def test_every_byte_of_the_small_files_counts(dist: Path, key: SigningKey, name: str) -> None:
    data = (dist / name).read_bytes()
    rng = random.Random(1)
    for at in range(0, len(data), 3 if len(data) < 4000 else 11):
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        (dist / name).write_bytes(changed)
        assert name in refused(dist, key.public_pem).message
    (dist / name).write_bytes(data)
    verify.verify(dist, key.public_pem)


def sum_again(dist: Path) -> None:
    """What somebody without the key can do about SHA256SUMS."""
    (dist / "SHA256SUMS").write_bytes(
        sums(
            {
                path: hashlib.sha256(data).hexdigest()
                for path, data in snapshot(dist).items()
                if path not in ("SHA256SUMS", "release.sigstore.json")
            }
        )
    )


def test_sums_made_anew_do_not_cover_a_change(dist: Path, key: SigningKey) -> None:
    """Whoever changes a file can change SHA256SUMS too, but not what is stated of it."""
    for mutate in (spoil_artefact, lambda d: (d / "toy" / "new").write_text("x")):
        mutate(dist)
    (dist / "other" / "labelmap.txt").unlink()
    sum_again(dist)
    message = refused(dist, key.public_pem).message
    assert "toy/labelmap.txt: was changed" in message
    assert "toy/new: was added" in message
    assert "other/labelmap.txt: is missing" in message
    assert "SHA256SUMS: is not the file that release.sigstore.json lists" in message


def test_a_model_that_was_taken_away_is_missed(dist: Path, key: SigningKey) -> None:
    shutil.rmtree(dist / "other")
    sum_again(dist)
    message = refused(dist, key.public_pem).message
    assert "other/model.sig: is missing: release.sigstore.json lists it" in message
    assert "other/other_dynamic.tflite: is missing" in message
    assert "toy/" not in message


def test_a_statement_about_another_release_is_none_about_this_one(
    dist: Path, key: SigningKey, signer: KeySigner, tmp_path: Path, toy: ToyModel
) -> None:
    publish_toy(tmp_path / "earlier", "toy", toy, signer)
    shutil.copy(tmp_path / "earlier" / "release.sigstore.json", dist)
    message = refused(dist, key.public_pem).message
    assert "other/model.sig: was added: release.sigstore.json does not list it" in message
    (dist / "release.sigstore.json").write_bytes(
        (dist / "toy" / "attestations" / "toy_float32.tflite.provenance.sigstore.json").read_bytes()
    )
    message = refused(dist, key.public_pem).message
    assert "release.sigstore.json: is not a statement about a release" in message


def test_an_older_model_in_a_newer_release_is_found(
    dist: Path, key: SigningKey, signer: KeySigner, tmp_path: Path
) -> None:
    """Every byte is signed by the trusted key, but not as this release."""
    older = toy_model(tmp_path / "older", "toy", {**ARTEFACTS, "float32": b"older"})
    publish_toy(tmp_path / "earlier", "toy", older, signer)
    shutil.rmtree(dist / "toy")
    shutil.copytree(tmp_path / "earlier" / "toy", dist / "toy")
    sum_again(dist)
    message = refused(dist, key.public_pem).message
    assert "toy/toy_float32.tflite: is not the file that release.sigstore.json lists" in message
    assert "other/" not in message


def test_a_model_under_another_models_name_is_found(dist: Path, key: SigningKey) -> None:
    (dist / "toy").rename(dist / "x")
    (dist / "other").rename(dist / "toy")
    (dist / "x").rename(dist / "other")
    sum_again(dist)
    message = refused(dist, key.public_pem).message
    assert "toy/model.sig: is the signature of 'other', not of 'toy'" in message
    assert "other/model.sig" in message


def test_a_release_signed_wholly_by_someone_else_is_refused(
    dist: Path, key: SigningKey, tmp_path: Path, other: ToyModel
) -> None:
    stranger = keys.load_or_create_key(tmp_path / "stranger.pem")
    evil = toy_model(tmp_path / "evil", "toy", {"float32": b"evil"})
    publish_toy(dist, "toy", evil, KeySigner(stranger))
    publish_toy(dist, "other", other, KeySigner(stranger))
    verify.verify(dist, stranger.public_pem)
    error = refused(dist, key.public_pem)
    assert "signed by another key" in error.message
    assert stranger.key_id[:16] in error.message
    assert key.key_id[:16] in error.message
    assert "--key" in error.remedy
    assert "kiln.pub: is not the trusted key" in error.message


def test_only_the_key_file_exchanged(dist: Path, key: SigningKey, tmp_path: Path) -> None:
    stranger = keys.load_or_create_key(tmp_path / "stranger.pem")
    (dist / "kiln.pub").write_bytes(stranger.public_pem)
    sum_again(dist)
    assert "kiln.pub: is not the trusted key" in refused(dist, key.public_pem).message
    assert "toy/model.sig: was made with another key" in refused(dist, stranger.public_pem).message


@pytest.fixture(params=["nothing", "file", "empty", "other", "only-sums"])
def no_dist(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "place"
    if request.param == "file":
        place.write_text("x")
    elif request.param != "nothing":
        place.mkdir()
    if request.param == "other":
        (place / "sub").mkdir()
        (place / "sub" / "file").write_text("x")
    if request.param == "only-sums":
        (place / "SHA256SUMS").write_bytes(b"")
    yield place


def test_what_is_no_release_is_said_to_be_none(no_dist: Path, key: SigningKey) -> None:
    message = refused(no_dist, key.public_pem).message
    assert str(no_dist) in message


def test_a_release_without_models_is_none(dist: Path, key: SigningKey) -> None:
    for model in ("toy", "other"):
        shutil.rmtree(dist / model)
    sum_again(dist)
    assert "holds no model" in refused(dist, key.public_pem).message


def test_control_characters_do_not_reach_the_terminal(dist: Path, key: SigningKey) -> None:
    (dist / "toy" / "a\x1b[2Jb").write_text("")
    with (dist / "SHA256SUMS").open("ab") as file:
        file.write(b"0" * 64 + b"  c\x1b[2Jd\n")
    message = refused(dist, key.public_pem).message
    assert r"a\x1b[2Jb" in message
    assert r"c\x1b[2Jd" in message
    assert "\x1b" not in message


def test_a_bad_trusted_key_is_the_keys_fault(dist: Path) -> None:
    with pytest.raises(SigningKeyError):
        verify.verify(dist, b"junk")


def test_verifying_works_on_a_folder_nobody_may_write(dist: Path, key: SigningKey) -> None:
    for path in [*dist.rglob("*"), dist]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    verify.verify(dist, key.public_pem)
    for path in [dist, *dist.rglob("*")]:
        path.chmod(0o755)


# --- the page ----------------------------------------------------------------------------------


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
