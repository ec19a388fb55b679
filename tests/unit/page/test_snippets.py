"""The code a page shows runs, and finds what the artefact's metadata says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import page_dist
import pytest
from int8_toy import int8_toy
from PIL import Image

from kiln.page.contents import Variant, read_release
from kiln.page.snippets import (
    UnusableError,
    litert_python,
    mediapipe_python,
    snippets,
    verification,
)
from kiln.tflite.reading import load
from stages.detect import detector
from stages.files import pixels

pytest.importorskip("ai_edge_litert")

SCORE = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_dist.toy_dist(tmp_path_factory.mktemp("snippets") / "dist")


def variant_of(folder: Path, name: str) -> Variant:
    (model,) = read_release(folder.parent).models
    return next(variant for variant in model.variants if variant.name == name)


@pytest.mark.parametrize("name", list(page_dist.TOY_VARIANTS))
@pytest.mark.parametrize("size", [None, (53, 37)], ids=["input size", "another size"])
def test_litert(folder: Path, tmp_path: Path, name: str, size: tuple[int, int] | None) -> None:
    variant = variant_of(folder, name)
    model = detector.load(folder / variant.file)
    picture = Image.open(page_dist.toy_images(tmp_path)[0])
    path = tmp_path / "picture.png"
    picture.resize(size or (model.width, model.height), Image.Resampling.NEAREST).save(path)
    expected = model.detect(pixels.load_rgb(path), SCORE)
    assert {item["label"] for item in expected} == {"red", "green", "blue"}
    compare(page_dist.run(litert_python(variant, SCORE), folder, path), expected)


def compare(printed: list[list[str]], expected: list[dict[str, Any]]) -> None:
    """Lines of name, score, left, top, right, bottom against a detector's own answer."""
    assert sorted(line[0] for line in printed) == sorted(item["label"] for item in expected)
    for line, item in zip(
        sorted(printed), sorted(expected, key=lambda item: item["label"]), strict=True
    ):
        ymin, xmin, ymax, xmax = item["box"]
        numbers = [float(word) for word in line[1:]]
        # Three decimals are printed.
        np.testing.assert_allclose(numbers, [item["score"], xmin, ymin, xmax, ymax], atol=0.0011)


def test_mediapipe(folder: Path, tmp_path: Path) -> None:
    variant = variant_of(folder, "float32")
    image = page_dist.toy_images(tmp_path)[0]
    printed = page_dist.run_mediapipe(mediapipe_python(variant, SCORE), folder, image)
    if printed is None:
        pytest.skip("MediaPipe is not installed (`make runtimes` installs it)")
    assert {line[0] for line in printed} == {"red", "green", "blue"}


def test_every_name_is_a_literal(folder: Path) -> None:
    """A file's name can end no string and begin no code."""
    hostile = "a\"'\\\n$x${y}{{score}}*/.tflite"
    variant = dataclasses.replace(variant_of(folder, "float32"), file=hostile)
    for code in (litert_python(variant, SCORE), mediapipe_python(variant, SCORE)):
        compile(code, "snippet", "exec")
        assert repr(hostile) in code
    (model,) = read_release(folder.parent).models
    kotlin = [item.code for item in snippets(model, variant) if item.language == "Kotlin"]
    assert len(kotlin) == 2
    for code in kotlin:
        assert '"a\\"\'\\\\\\n\\$x\\${y}{{score}}*/.tflite"' in code


def test_numbers_are_the_files_own(folder: Path) -> None:
    assert "values = (pixels - 127.5) / 127.5" in litert_python(
        variant_of(folder, "float32"), SCORE
    )
    assert "values = np.rint(pixels).astype(np.uint8)" in litert_python(
        variant_of(folder, "int8"), SCORE
    )


def test_an_int8_input(folder: Path, tmp_path: Path) -> None:
    """LiteRT's code runs; the other libraries do not take such a file, and the page says so."""
    path = tmp_path / "int8.tflite"
    path.write_bytes(int8_toy())
    file = load(path)
    variant = dataclasses.replace(
        variant_of(folder, "int8"), file=path.name, model=file.model, metadata=file.metadata
    )
    (model,) = read_release(folder.parent).models
    litert, *others = snippets(model, variant)
    image = page_dist.toy_images(tmp_path)[0]
    printed = page_dist.run(litert.code, tmp_path, image)
    compare(printed, detector.load(path).detect(pixels.load_rgb(image), SCORE))
    assert len(others) == 3
    assert all(not item.code and "microcontrollers" in item.reason for item in others)
    assert all(item.code for item in snippets(model, variant_of(folder, "int8")))


def with_input(variant: Variant, **changes: Any) -> Variant:
    metadata = variant.metadata
    changed = dataclasses.replace(metadata.inputs[0], **changes)
    return dataclasses.replace(
        variant, metadata=dataclasses.replace(metadata, inputs=(changed, *metadata.inputs[1:]))
    )


def test_each_channel_has_its_own_normalisation(folder: Path, tmp_path: Path) -> None:
    variant = variant_of(folder, "float32")
    same = with_input(variant, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
    assert litert_python(same, SCORE) == litert_python(variant, SCORE)
    code = litert_python(with_input(variant, mean=(127.5, 127.5, 127.0), std=(127.5,) * 3), SCORE)
    assert "mean = np.array([127.5, 127.5, 127], np.float32)" in code
    printed = page_dist.run(code, folder, page_dist.toy_images(tmp_path)[0])
    assert {line[0] for line in printed} == {"red", "green", "blue"}


def test_no_code_rather_than_wrong_code(folder: Path) -> None:
    variant = variant_of(folder, "float32")
    boxes = variant.metadata.output("location")
    outputs = list(variant.metadata.outputs)
    outputs[boxes] = dataclasses.replace(
        outputs[boxes], box=dataclasses.replace(outputs[boxes].box, coordinates="pixel")
    )
    in_pixels = dataclasses.replace(
        variant, metadata=dataclasses.replace(variant.metadata, outputs=tuple(outputs))
    )
    for changed, reason in (
        (dataclasses.replace(variant, metadata=None), "cannot be read"),
        (with_input(variant, std=(0.0,)), "deviation"),
        (with_input(variant, mean=(), std=()), "deviation"),
        (in_pixels, "fractions"),
    ):
        with pytest.raises(UnusableError, match=reason):
            litert_python(changed, SCORE)


def test_commands_are_quoted() -> None:
    assert "verify key 'a b; rm x' --signature 'a b; rm x/model.sig'" in verification(["a b; rm x"])
