"""dist: verified to the last bit."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from published import ARTEFACTS, publish_toy, refused, spoil_artefact, sum_again
from toy_release import ToyModel, toy_model

from kiln.core.errors import SigningKeyError
from kiln.release import verify
from kiln.signing import keys
from kiln.signing.keys import SigningKey
from kiln.signing.signer import KeySigner


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
    # A folder of git's is named once, not file by file.
    return [what.partition(".git/")[0] + ".git" if ".git/" in what else what]


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


@pytest.mark.parametrize("seed", range(4))  # test_verify_mutations.py does thousands
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
    for at in range(0, len(data), 1 + len(data) // 250):
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        (dist / name).write_bytes(changed)
        assert name in refused(dist, key.public_pem).message
    (dist / name).write_bytes(data)
    verify.verify(dist, key.public_pem)


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
