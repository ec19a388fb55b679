"""The code a page shows for raw outputs: it runs, and finds what the gates' own decoding finds."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import page_dist
import pytest
from feeding_files import LETTERBOX, with_feeding
from PIL import Image
from places import FIXTURES, ROOT

from kiln.page.contents import Variant, read_release
from kiln.page.snippets import UnusableError, litert_python, snippets
from stages.detect import detector
from stages.files import pixels
from stages.tflite import decoding, packed_files

pytest.importorskip("ai_edge_litert")

SCORE = 0.3
TEMPLATE = ROOT / "scripts" / "kiln" / "page" / "snippets" / "litert_raw.py.txt"


def variant_of(dist: Path, data: bytes) -> Variant:
    folder = page_dist.toy_dist(dist)
    (folder / "toy_float32.tflite").write_bytes(data)
    (model,) = read_release(dist).models
    return next(item for item in model.variants if item.name == "float32")


def toy() -> bytes:
    return (FIXTURES / "toy_raw_annotated.tflite").read_bytes()


@pytest.mark.parametrize("size", [(8, 8), (64, 32)], ids=["square", "wide"])
@pytest.mark.parametrize("letterboxed", [True, False], ids=["letterboxed", "stretched"])
def test_it_finds_what_the_file_describes(
    tmp_path: Path, letterboxed: bool, size: tuple[int, int]
) -> None:
    variant = variant_of(
        tmp_path / "dist", with_feeding(toy(), LETTERBOX) if letterboxed else toy()
    )
    # The file does not declare feeding.json, so the detector is told.
    how = detector.feeding.read(LETTERBOX) if letterboxed else None
    picture = tmp_path / "picture.png"
    # Two colours side by side: letterboxed, the wide one fills the upper half of the input.
    both = Image.new("RGB", size, (255, 0, 0))
    both.paste((0, 0, 255), (size[0] // 2, 0, *size))
    both.save(picture)
    model = detector.load(tmp_path / "dist" / "toy" / variant.file)
    expected = model.detect(pixels.load_rgb(picture), SCORE, how=how)
    assert len(expected) >= 2
    lines = page_dist.run(litert_python(variant, SCORE), tmp_path / "dist" / "toy", picture)
    numbers = [[item["score"], *(item["box"][side] for side in (1, 0, 3, 2))] for item in expected]
    printed = [[float(word) for word in line[1:]] for line in lines]
    np.testing.assert_allclose(sorted(printed), sorted(numbers), atol=0.0011)
    assert sorted(line[0] for line in lines) == sorted(item["label"] for item in expected)


def test_limits_come_from_the_file(tmp_path: Path) -> None:
    """The program reads them when it runs: one detection is all that this file wants."""
    model, files = packed_files.split(toy())
    how = json.loads(files["decoding.json"])
    how["suppression"]["max_detections"] = 1
    files["decoding.json"] = json.dumps(how).encode()
    variant = variant_of(tmp_path / "dist", packed_files.pack(model, files))
    picture = page_dist.toy_images(tmp_path)[0]
    lines = page_dist.run(litert_python(variant, SCORE), tmp_path / "dist" / "toy", picture)
    assert len(lines) == 1


def test_across_classes(tmp_path: Path) -> None:
    """Two anchors at one place, of two classes: within each class both are found."""
    model, files = packed_files.split(toy())
    how = decoding.parse(files)
    counts = {}
    for within in ("class", "image"):
        rule = dataclasses.replace(how.suppression, within=within)
        same = dataclasses.replace(how, anchors=how.anchors[:16] * 4, suppression=rule)
        place = tmp_path / within
        variant = variant_of(place, packed_files.pack(model, {**files, **same.as_files()}))
        picture = page_dist.toy_images(tmp_path)[0]
        lines = page_dist.run(litert_python(variant, SCORE), place / "toy", picture)
        found = detector.load(place / "toy" / variant.file).detect(pixels.load_rgb(picture), SCORE)
        assert sorted(line[0] for line in lines) == sorted(item["label"] for item in found)
        counts[within] = len(found)
    assert counts == {"class": 3, "image": 1}


def test_others_say_why_there_is_none(tmp_path: Path) -> None:
    variant = variant_of(tmp_path / "dist", toy())
    (model,) = read_release(tmp_path / "dist").models
    python, *others = snippets(model, variant)
    assert python.code
    assert len(others) == 3
    for item in others:
        assert not item.code
        assert "raw boxes and raw scores" in item.reason


def test_without_a_description_there_is_none(tmp_path: Path) -> None:
    variant = variant_of(tmp_path / "dist", toy())
    boxes, scores = variant.metadata.outputs
    for outputs, words in (
        ((dataclasses.replace(boxes, files=()), scores), "does not say how its boxes"),
        ((boxes, dataclasses.replace(scores, files=())), "no label file"),
        ((boxes,), "names no single output"),
    ):
        metadata = dataclasses.replace(variant.metadata, outputs=outputs)
        with pytest.raises(UnusableError, match=words):
            litert_python(dataclasses.replace(variant, metadata=metadata), SCORE)


def test_the_documents_show_the_same_functions() -> None:
    (shown,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "raw-outputs.md").read_text("utf-8"), re.DOTALL
    )
    assert "def decode(" in shown
    assert "def suppress(" in shown
    assert shown in TEMPLATE.read_text("utf-8")
