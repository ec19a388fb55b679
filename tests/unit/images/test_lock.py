from __future__ import annotations

import hashlib
import lzma
from dataclasses import replace
from pathlib import Path

import pytest
from toy_project import SEALED, make_project

from kiln.core.errors import ImageMismatchError
from kiln.images.builder import locked_image
from kiln.images.lock import Locked, locked_contents, read_lock, write_lock


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    locked = write_lock(tmp_path, "toy", SEALED, "c" * 64)
    config = SEALED.config.decode()
    assert locked == Locked("toy", SEALED.identity, SEALED.layer, "c" * 64, 1024, config)
    assert read_lock(tmp_path) == {"toy": locked}
    assert locked_contents(tmp_path, "toy") == list(SEALED.contents)
    assert locked.tag == f"tflite-kiln/toy:{SEALED.identity[7:23]}"


def test_other_images_keep_their_entries_in_one_order(tmp_path: Path) -> None:
    names = ["zebra", "ape", "mole"]
    for name in names:
        (tmp_path / name).mkdir()
        write_lock(tmp_path, name, SEALED, "c" * 64)
    first = (tmp_path / "images.lock").read_bytes()
    write_lock(tmp_path, "mole", replace(SEALED, size=7), "d" * 64)
    found = read_lock(tmp_path)
    assert list(found) == sorted(names)
    assert (found["mole"].size, found["ape"].size) == (7, 1024)
    write_lock(tmp_path, "mole", SEALED, "c" * 64)
    assert (tmp_path / "images.lock").read_bytes() == first


def test_no_lock_is_an_empty_lock(tmp_path: Path) -> None:
    assert read_lock(tmp_path) == {}
    assert locked_contents(tmp_path, "toy") == []


@pytest.mark.parametrize(
    "text",
    [b"[toy", b"\xff\xfe", b"[toy]\nidentity = 'x'\n", b"toy = 1\n", b"[toy]\nsurprise = 1\n"],
    ids=["cut", "not UTF-8", "incomplete", "no table", "unknown"],
)
def test_a_damaged_lock_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "images.lock").write_bytes(text)
    with pytest.raises(ImageMismatchError) as caught:
        read_lock(tmp_path)
    assert str(tmp_path / "images.lock") in caught.value.message
    assert "version control" in caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        ("identity", '"sha256:x"'),
        ("identity", "1"),
        ("layer", f'"{"b" * 64}"'),
        ("recipe", f'"{"C" * 64}"'),
        ("size", "0"),
        ("size", "-1"),
        ("size", "true"),
        ("size", "1e308"),
        ("size", "nan"),
        ("size", str(1 << 60)),
        ("size", '"1024"'),
        ("config", "[]"),
        ("surprise", "1"),
    ],
    ids=lambda change: f"{change[0]} {change[1][:12]}",
)
def test_a_lock_says_of_an_image_what_ours_say(tmp_path: Path, change: tuple[str, str]) -> None:
    (tmp_path / "toy").mkdir()
    write_lock(tmp_path, "toy", SEALED, "c" * 64)
    path = tmp_path / "images.lock"
    field, value = change
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{field} =")]
    path.write_text("\n".join([*lines, f"{field} = {value}"]))
    with pytest.raises(ImageMismatchError, match=r"images\.lock has (no|an invalid|missing)"):
        read_lock(tmp_path)


@pytest.mark.parametrize("name", ["../toy", "a/b", "Toy", "", "x" * 65])
def test_no_name_of_an_image_is_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "toy").mkdir()
    write_lock(tmp_path, "toy", SEALED, "c" * 64)
    path = tmp_path / "images.lock"
    path.write_text(path.read_text().replace("[toy]", f'["{name}"]'))
    with pytest.raises(ImageMismatchError, match="missing or unknown fields"):
        read_lock(tmp_path)


def test_a_sound_lock_names_the_layer_in_the_configuration_that_it_is_called_by() -> None:
    sound = Locked.of("toy", SEALED, "c" * 64)
    assert sound.sound
    assert not replace(sound, identity=f"sha256:{'a' * 64}").sound
    assert not replace(sound, layer=f"sha256:{'a' * 64}").sound
    for config in ("", "[]", "{}", '{"rootfs": 1}', '{"rootfs": {"diff_ids": []}}', "[" * 9999):
        identity = f"sha256:{hashlib.sha256(config.encode()).hexdigest()}"
        assert not replace(sound, config=config, identity=identity).sound


@pytest.mark.parametrize("damage", [b"", b"text", b"\xfd7zXZ\x00\x00", None])
def test_a_damaged_contents_list_is_named(tmp_path: Path, damage: bytes | None) -> None:
    (tmp_path / "toy").mkdir()
    write_lock(tmp_path, "toy", SEALED, "c" * 64)
    path = tmp_path / "toy" / "contents.xz"
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(ImageMismatchError, match=r"contents\.xz cannot be read"):
        locked_contents(tmp_path, "toy")


def test_a_lock_made_for_other_sources_does_not_count(tmp_path: Path) -> None:
    docker = make_project(tmp_path).docker
    assert locked_image(docker, "odapi").identity == SEALED.identity
    (docker / "install.py").write_text("print(1)\n")
    with pytest.raises(ImageMismatchError, match="was written for an older one") as caught:
        locked_image(docker, "odapi")
    assert "kiln images build odapi --update-lock" in caught.value.remedy
    (docker / "images.lock").unlink()
    with pytest.raises(ImageMismatchError, match="does not name it"):
        locked_image(docker, "odapi")


def test_a_contents_list_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    bomb = lzma.compress(bytes(65 << 20), preset=0)
    assert len(bomb) < 1 << 20
    (tmp_path / "toy" / "contents.xz").write_bytes(bomb)
    with pytest.raises(ImageMismatchError, match=r"contents\.xz cannot be read"):
        locked_contents(tmp_path, "toy")
