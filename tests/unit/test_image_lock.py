from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy_project import SEALED, make_project

from kiln.errors import ImageMismatchError
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
