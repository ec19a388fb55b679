"""What keeps an image out of a measurement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_project import make_project

from kiln.building.build import Builder
from kiln.core.digest import sha256_file
from kiln.core.store import Store
from kiln.measure import images
from kiln.measure.coco import DataSet, Picture
from kiln.measure.workbench import Workbench


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path)
    return path


def test_a_sound_image(picture: Path) -> None:
    assert images.fault(picture, Picture(1, "a.jpg", 40, 60)) == ""
    # A smaller copy of the annotated one: boxes are fractions.
    assert images.fault(picture, Picture(1, "a.jpg", 427, 640)) == ""


def test_an_image_that_is_not_the_annotated_one(picture: Path) -> None:
    told = images.fault(picture, Picture(1, "a.jpg", 60, 40))
    assert told == "it is 60 x 40 pixels, annotated as 40 x 60"


def test_damaged_images(picture: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(picture.read_bytes()[:300])
    assert images.fault(cut, Picture(1, "cut.jpg", 40, 60))
    empty = tmp_path / "empty.png"
    empty.touch()
    assert images.fault(empty, Picture(1, "empty.png", 40, 60))
    other = tmp_path / "a.gif"
    Image.open(picture).save(other)
    assert "not one of .jpg" in images.fault(other, Picture(1, "a.gif", 40, 60))


def test_chunks_without_what_cannot_be_used(tmp_path: Path) -> None:
    """In order, each with its own fault; known by its content the second time."""
    folder = tmp_path / "images"
    folder.mkdir()
    pictures = tuple(Picture(number, f"{number:02}.png", 8, 9) for number in range(45))
    for number, picture in enumerate(pictures):
        Image.new("RGB", (9, 8), (number, 0, 0)).save(folder / picture.file)
    (folder / "07.png").write_bytes(b"no image")
    (folder / "31.png").unlink()
    told: list[str] = []

    def on_event(event: str, **fields: object) -> None:
        if event == "note":
            told.append(str(fields["message"]))

    store = Store(tmp_path / "store")
    builder = Builder(make_project(tmp_path / "project"), store, tmp_path / "dist", on_event)
    data = DataSet(folder, tmp_path / "instances.json", "ab", pictures, (), {}, "photos")
    for _ in range(2):
        chunks = images.read(Workbench(builder), "toy", data, pictures, 20)
        assert [chunk.number for chunk in chunks] == [1, 2, 3]
        assert [len(chunk.pictures) for chunk in chunks] == [19, 19, 5]
        for chunk in chunks:
            for picture, digest in chunk.digests.items():
                assert digest == sha256_file(folder / picture.file)
                assert chunk.images.files[picture.name] == digest
    assert len(told) == 2
    assert told[0] == told[1]
    assert "2 of 45" in told[0]
    assert "31.png (missing)" in told[0]
    assert "07.png (" in told[0]
