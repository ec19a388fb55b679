"""The code a page shows runs, and finds what the artefact's metadata says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import page_dist
import pytest
from feeding_files import LETTERBOX, STRETCH
from int8_toy import int8_toy
from PIL import Image

from kiln.page.contents import Variant, read_release
from kiln.page.snippets import (
    UnusableError,
    litert_python,
    mediapipe_kotlin,
    mediapipe_python,
    snippets,
    task_library_kotlin,
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
        sorted(printed),
        sorted(expected, key=lambda item: (item["label"], item["score"])),
        strict=True,
    ):
        ymin, xmin, ymax, xmax = item["box"]
        numbers = [float(word) for word in line[1:]]
        # Three decimals are printed.
        np.testing.assert_allclose(numbers, [item["score"], xmin, ymin, xmax, ymax], atol=0.0011)


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


# --- how the file is fed ------------------------------------------------------------------

HALF_PIXEL = {"sampling": "half-pixel"}


def fed_variant(tmp_path: Path, name: str, feeding: dict[str, Any]) -> Variant:
    """A variant of a release below ``tmp_path`` whose files state ``feeding``."""
    copy = page_dist.toy_dist(tmp_path / "fed")
    page_dist.state_feeding(copy, feeding)
    variant = variant_of(copy, name)
    assert variant.notes == ()
    return variant


def photograph(tmp_path: Path, width: int, height: int) -> Path:
    """Two halves beside each other (above each other where it is tall), reddish and bluish."""
    random = np.random.default_rng(5)
    values = random.integers(0, 60, (height, width, 3))
    place = np.indices((height, width))[int(width >= height)] * 2 // max(height, width)
    values[place == 0] += [190, 0, 0]
    values[place == 1] += [0, 0, 190]
    path = tmp_path / f"{width}x{height}.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def resized(image: Any, height: int, width: int, feeding: dict[str, Any]) -> Any:
    """numpy's own interpolation, one line after another; areas by their smallest common parts."""
    for axis, size in ((0, height), (1, width)):
        source = image.shape[axis]
        if feeding["interpolation"] == "area":
            parts = np.moveaxis(image.repeat(size, axis), axis, 0)
            mean = parts.reshape(size, source, *parts.shape[1:]).mean(1)
            image = np.moveaxis(mean, 0, axis)
            continue
        where = np.arange(size) * source / size
        if feeding["sampling"] == "half-pixel":
            where = (np.arange(size) + 0.5) * source / size
        if feeding["interpolation"] == "nearest":
            image = image.take(np.floor(where).astype(int), axis)
            continue
        where -= 0.5 * (feeding["sampling"] == "half-pixel")
        image = np.apply_along_axis(
            lambda line, at=where: np.interp(at, np.arange(len(line)), line), axis, image
        )
    return image


def by_hand(
    path: Path,
    picture: Path,
    feeding: dict[str, Any],
    covered: tuple[int, int],
    exact: tuple[float, float] | None = None,
) -> list[dict[str, Any]]:
    """What the file finds in a picture that covers so many rows and columns of the input.

    ``exact``: the same before rounding, where boxes are scaled by that.
    """
    image = np.asarray(Image.open(picture).convert("RGB"), np.float64)
    fed = np.empty((8, 8, 3))
    fed[:] = feeding["fill"] or 0
    fed[: covered[0], : covered[1]] = resized(image, *covered, feeding)
    model = detector.load(path)
    values = np.rint(fed).astype(np.uint8)
    if model.input_type == "float32":
        values = ((fed - 127.5) / 127.5).astype(np.float32)
    outputs = model.run(values[np.newaxis])
    rows, columns = exact or covered
    boxes = outputs["location"].reshape(-1, 4) * ([8 / rows, 8 / columns] * 2)
    scores, classes = outputs["score"].reshape(-1), outputs["category"].reshape(-1)
    return [
        {"label": model.labels[round(category)], "score": score, "box": box.clip(0, 1)}
        for box, score, category in zip(boxes, scores, classes.tolist(), strict=True)
        if score >= SCORE and box[0] < 1 and box[1] < 1
    ]


@pytest.mark.parametrize(
    ("feeding", "size", "covered", "exact"),
    [
        (LETTERBOX, (32, 16), (4, 8), None),
        (LETTERBOX, (16, 32), (8, 4), None),
        (LETTERBOX, (4, 2), (4, 8), None),  # smaller than the input
        (LETTERBOX, (32, 14), (4, 8), None),  # 3.5 rows, rounded
        ({**LETTERBOX, **HALF_PIXEL}, (32, 14), (3, 8), (3.5, 8)),  # rounded down
        ({**LETTERBOX, **HALF_PIXEL}, (16, 33), (8, 3), (8, 128 / 33)),
        ({**LETTERBOX, "interpolation": "nearest"}, (26, 12), (4, 8), None),
        ({**LETTERBOX, "interpolation": "nearest", **HALF_PIXEL}, (27, 14), (4, 8), (112 / 27, 8)),
        ({**LETTERBOX, "interpolation": "area"}, (27, 13), (4, 8), None),
        # What is found in the filling alone is not in the picture.
        ({**LETTERBOX, "fill": [255, 0, 0]}, (32, 16), (4, 8), None),
        ({**STRETCH, "sampling": "corner"}, (30, 20), (8, 8), None),
        (STRETCH, (30, 20), (8, 8), None),
    ],
)
def test_litert_feeds_as_the_file_says(
    tmp_path: Path,
    feeding: dict[str, Any],
    size: tuple[int, int],
    covered: tuple[int, int],
    exact: tuple[float, float] | None,
) -> None:
    name = "float32" if size[0] % 4 else "int8"  # each is enough for some: a run takes a second
    variant = fed_variant(tmp_path, name, feeding)
    place = tmp_path / "fed" / "toy"
    picture = photograph(tmp_path, *size)
    expected = by_hand(place / variant.file, picture, feeding, covered, exact)
    assert {item["label"] for item in expected} >= {"red", "blue"}
    compare(page_dist.run(litert_python(variant, SCORE), place, picture), expected)


def test_a_box_covers_what_it_covers_in_the_photograph(tmp_path: Path) -> None:
    """The quarters of the input that hold the two halves of a wide picture: each is a half."""
    variant = fed_variant(tmp_path, "float32", LETTERBOX)
    picture = photograph(tmp_path, 64, 32)
    printed = page_dist.run(litert_python(variant, SCORE), tmp_path / "fed" / "toy", picture)
    boxes = {line[0]: [float(word) for word in line[2:]] for line in printed}
    assert boxes == {"red": [0, 0, 0.5, 1], "blue": [0.5, 0, 1, 1]}


def test_sampling_makes_a_difference(tmp_path: Path) -> None:
    picture = photograph(tmp_path, 30, 15)
    found = []
    for number, sampling in enumerate(("corner", "half-pixel")):
        place = tmp_path / str(number)
        variant = fed_variant(place, "float32", {**LETTERBOX, "sampling": sampling})
        found.append(page_dist.run(litert_python(variant, SCORE), place / "fed" / "toy", picture))
    assert [line[0] for line in found[0]] == [line[0] for line in found[1]]
    assert found[0] != found[1]


@pytest.mark.parametrize("write", [mediapipe_kotlin, task_library_kotlin])
def test_kotlin_has_the_same_numbers(folder: Path, tmp_path: Path, write: Any) -> None:
    feeding = {**LETTERBOX, "fill": [1, 2.6, 255]}
    code = write(fed_variant(tmp_path / "a", "float32", feeding), SCORE)
    for words in (
        "min(8f / bitmap.width, 8f / bitmap.height)",
        "round(bitmap.width * scale)",
        "Bitmap.createBitmap(8, 8, ",
        "Color.rgb(1, 3, 255)",
        "postTranslate(0.5f - 0.5f * across, 0.5f - 0.5f * down)",
        "RectF(box.left / across, box.top / down, ",
        "val box = letterbox.back(detection.boundingBox",
        "letterbox.picture)",
    ):
        assert words in code
    half = write(fed_variant(tmp_path / "b", "float32", {**LETTERBOX, **HALF_PIXEL}), SCORE)
    assert "truncate(bitmap.width * scale)" in half and "postTranslate" not in half
    assert "RectF(box.left / scale, box.top / scale, " in half
    stretched = {**STRETCH, "sampling": "corner"}
    plain = write(fed_variant(tmp_path / "c", "float32", stretched), SCORE)
    assert plain == write(variant_of(folder, "float32"), SCORE)
    assert "etterbox" not in plain


@pytest.mark.parametrize(
    ("feeding", "without"),
    [
        ({**LETTERBOX, "interpolation": "bicubic"}, ["LiteRT", "MediaPipe", "Task Library"]),
        # Android resizes bitmaps in one way only.
        ({**LETTERBOX, "interpolation": "nearest"}, ["MediaPipe", "Task Library"]),
        # Who stretches pictures in his own way need not know how the model was trained to.
        ({**STRETCH, "interpolation": "bicubic"}, ["LiteRT"]),
    ],
)
def test_no_code_for_what_cannot_be_done(
    folder: Path, tmp_path: Path, feeding: dict[str, Any], without: list[str]
) -> None:
    variant = fed_variant(tmp_path, "float32", feeding)
    (model,) = read_release(folder.parent).models
    missing = [item for item in snippets(model, variant) if not item.code]
    assert sorted({item.title.partition(",")[0].removesuffix(" Tasks") for item in missing}) == (
        without
    )
    assert all(feeding["interpolation"] in item.reason for item in missing)


def test_no_letterbox_without_a_size(tmp_path: Path) -> None:
    variant = fed_variant(tmp_path, "float32", LETTERBOX)
    blind = dataclasses.replace(variant, model=None)
    for write in (mediapipe_python, mediapipe_kotlin, task_library_kotlin):
        with pytest.raises(UnusableError, match="not one picture"):
            write(blind, SCORE)
