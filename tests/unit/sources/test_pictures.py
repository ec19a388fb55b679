"""The pictures of a folder, counted and looked at without a decoder; Pillow is the judge here."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from places import SAMPLES
from training_folder import LFS_POINTER, photo

from kiln.core.errors import ImageSetError
from kiln.sources import pictures

KINDS = {
    "jpeg": {},
    "progressive jpeg": {"progressive": True},
    "png": {},
    "bmp": {},
    "webp": {},
    "lossless webp": {"lossless": True},
}


def encoded(kind: str) -> bytes:
    image = Image.effect_noise((90, 60), 80).convert("RGB")
    sink = io.BytesIO()
    image.save(sink, kind.split()[-1], **KINDS[kind])
    return sink.getvalue()


def decodes(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def taken(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    try:
        pictures.refuse_damaged(path)
    except ImageSetError as error:
        assert path.name in error.message
        assert error.remedy
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_short_is_found(kind: str, tmp_path: Path) -> None:
    whole = encoded(kind)
    path = tmp_path / "photo.jpg"  # whatever it is called: decoders go by content
    assert taken(path, whole)
    assert taken(path, whole + b"\0what a camera adds" * 50)
    sizes = [*range(1, 40), *range(40, len(whole), 331), *range(len(whole) - 40, len(whole))]
    for size in sizes:
        cut = whole[:size]
        if decodes(cut):
            assert taken(path, cut), size
        elif kind != "png" or size < len(whole) - 40:
            assert not taken(path, cut), size


def test_a_preview_does_not_hide_a_cut(tmp_path: Path) -> None:
    small = encoded("jpeg")
    large = encoded("progressive jpeg")
    head = b"\xff\xd8\xff\xe1" + (2 + len(small)).to_bytes(2, "big") + small
    assert taken(tmp_path / "a.jpg", head + large[2:])
    assert taken(tmp_path / "a.jpg", head + large[2:] + b"more")
    assert not taken(tmp_path / "a.jpg", head + large[2:-50])


def test_the_samples_are_whole() -> None:
    found = pictures.pictures(SAMPLES / "images")
    assert len(found) >= 6
    for path in found:
        pictures.refuse_damaged(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 99, "HEIC or AVIF"),
        (b"<!DOCTYPE html>", "web page"),
        (b"a photo", "not PNG, JPEG"),
        (LFS_POINTER.encode(), "Git LFS pointer"),
    ],
)
def test_what_is_no_picture(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageSetError, match=words):
        pictures.refuse_damaged(path)


def test_another_kind_under_a_name_that_is_taken(tmp_path: Path) -> None:
    for kind in ("gif", "tiff"):
        sink = io.BytesIO()
        Image.new("RGB", (8, 8)).save(sink, kind)
        assert taken(tmp_path / "photo.png", sink.getvalue())


def test_which_files_are_taken(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.webp", "c.bmp", "d.jpeg", "._b.JPG", "notes.txt", "e.heic"):
        (tmp_path / name).write_bytes(photo())
    (tmp_path / "folder.png").mkdir()
    names = [path.name for path in pictures.pictures(tmp_path)]
    assert names == ["a.webp", "b.JPG", "c.bmp", "d.jpeg"]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    assert pictures.passed_over(tmp_path) == ""
    for name in ("one.heic", "two.HEIC", "three.tif", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    for number in range(3):
        (tmp_path / f"day {number}" / "best").mkdir(parents=True)
        (tmp_path / f"day {number}" / "best" / "one.png").write_bytes(photo())
    assert pictures.passed_over(tmp_path) == (
        "3 images in sub-folders, 2 .heic files and 1 .tif file"
    )
    error = pictures.none_in(tmp_path)
    assert "it holds 3 images in sub-folders, 2 .heic files and 1 .tif file" in error.message
    assert "Sub-folders are not looked into" in error.remedy


def test_counting_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_MOST_ENTRIES", 10)
    for number in range(9):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "one.png").write_bytes(b"x")
    assert pictures.passed_over(tmp_path).startswith("more than ")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo())
    assert "is a file, not a folder" in pictures.none_in(tmp_path / "photo.jpg").message
    assert "does not exist" in pictures.none_in(tmp_path / "nowhere").message
    (tmp_path / "empty").mkdir()
    assert "There are no images in" in pictures.none_in(tmp_path / "empty").message
