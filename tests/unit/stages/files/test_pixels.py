from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.files import feeding, pixels
from stages.protocol.failures import StageError


def line(values: list[float]) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(1, -1, 1)


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        # By hand from half-pixel centres: output i reads source (i + 0.5) * in / out - 0.5.
        ([0, 100], 4, [0, 25, 75, 100]),
        ([0, 100], 1, [50]),
        ([10, 20, 30, 40], 2, [15, 35]),
        ([0, 90, 180], 2, [22.5, 157.5]),
        ([7], 3, [7, 7, 7]),
        ([1, 2, 3], 3, [1, 2, 3]),
        ([0, 0, 0, 80, 0, 0, 0, 0], 2, [0, 0]),  # no antialiasing: the peak is not seen
    ],
)
def test_resize_known_values(values: list[float], width: int, expected: list[float]) -> None:
    across = pixels.resize_bilinear(line(values), 1, width)
    assert across.dtype == np.float32
    np.testing.assert_allclose(across.ravel(), expected, atol=1e-5)
    down = pixels.resize_bilinear(line(values).transpose(1, 0, 2), width, 1)
    np.testing.assert_allclose(down.ravel(), expected, atol=1e-5)


# tf.image.resize of TensorFlow 2.15.1 for the image below, at [row, column]: channel values.
TENSORFLOW = {
    (0, 0): (0.8166667, 0.0, 0.116666675),
    (0, 69): (164.81667, 6.066667, 156.11667),
    (7, 11): (167.94286, 71.8125, 101.37143),
    (13, 40): (207.12859, 224.84465, 95.44285),
    (21, 3): (210.06667, 55.93583, 171.33331),
    (29, 69): (159.18335, 73.933426, 163.7168),
    (29, 0): (251.18335, 0.0, 37.583008),
}


def test_resize_as_tensorflow_does() -> None:
    rows, columns = np.mgrid[0:37, 0:53]
    image = np.stack(
        [
            (rows * 7 + columns * 13) % 256,
            (rows * columns) % 256,
            (rows * rows + 3 * columns) % 256,
        ],
        axis=-1,
    ).astype(np.uint8)
    resized = pixels.resize_bilinear(image, 30, 70)
    assert resized.shape == (30, 70, 3)
    for (row, column), expected in TENSORFLOW.items():
        np.testing.assert_allclose(resized[row, column], expected, atol=1e-4 * 255)


def test_normalize() -> None:
    values = np.array([[[0.0, 127.5, 255.0]]], np.float32)
    assert pixels.normalize(values, (127.5,), (127.5,)).tolist() == [[[-1.0, 0.0, 1.0]]]
    by_channel = pixels.normalize(values, (0.0, 27.5, 155.0), (1.0, 50.0, 100.0))
    assert by_channel.tolist() == [[[0.0, 2.0, 1.0]]]
    assert by_channel.dtype == np.float32
    assert pixels.normalize(values, (), ()) is values


def test_raw_pixels() -> None:
    values = np.array([-3.0, 0.5, 127.5, 300.0], np.float32)
    assert pixels.to_raw(values, "uint8").tolist() == [0, 0, 128, 255]
    found = pixels.to_raw(values, "int8")
    assert (found.dtype, found.tolist()) == (np.int8, [-128, -128, 0, 127])


def test_to_uint8() -> None:
    values = np.array([-3.0, 0.5, 1.5, 2.5, 254.6, 300.0], np.float32)
    assert pixels.to_uint8(values).tolist() == [0, 0, 2, 2, 255, 255]


def test_load_takes_pixels_as_they_are(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    image.save(tmp_path / "a.png")
    assert pixels.load_rgb(tmp_path / "a.png").tolist() == [[[10, 20, 30]] * 3] * 2
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees to show
    Image.new("L", (3, 2), 200).save(tmp_path / "b.jpg", exif=turned)
    assert pixels.load_rgb(tmp_path / "b.jpg").shape == (2, 3, 3)


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in pixels.list_images(tmp_path)] == ["a.png", "b.JPG"]
    for folder in (tmp_path / "folder.png", tmp_path / "absent"):
        with pytest.raises(StageError) as caught:
            pixels.list_images(folder)
        assert caught.value.kind == "image-set"


def test_damaged_images_are_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    for name, data in (
        ("empty.png", b""),
        ("text.png", b"hello"),
        ("half.jpg", whole[: len(whole) // 2]),
        ("header.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StageError) as caught:
            pixels.load_rgb(tmp_path / name)
        assert caught.value.kind == "image-set"
        assert name in caught.value.message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_far_too_large_images_are_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 6_000)).save(tmp_path / "large.png")
    with pytest.raises(StageError, match="too many"):
        pixels.load_rgb(tmp_path / "large.png")


# --- feeding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "width", "interpolation", "expected"),
    [
        # By hand: with "corner", output i reads source i * in / out.
        ([0, 100], 4, "bilinear", [0, 50, 100, 100]),
        ([10, 20, 30, 40], 2, "bilinear", [10, 30]),
        ([0, 90, 180], 2, "bilinear", [0, 135]),
        ([1, 2, 3, 4, 5], 3, "nearest", [1, 2, 4]),
        ([1, 2], 4, "nearest", [1, 1, 2, 2]),
        ([0, 90, 180], 2, "area", [30, 150]),
        ([1, 2, 3, 4], 2, "area", [1.5, 3.5]),
        ([5, 5, 5, 5], 3, "bicubic", [5, 5, 5]),
        # Half-way with Keys' -0.75: weights -0.09375, 0.59375, 0.59375, -0.09375.
        ([0, 0, 100, 100, 0, 0], 12, "bicubic", [0, -9.375, 0, 50, 100, 118.75, 100, 50, 0]),
    ],
)
def test_corner_sampling_known_values(
    values: list[float], width: int, interpolation: str, expected: list[float]
) -> None:
    across = pixels.resize(line(values), 1, width, "corner", interpolation)
    assert (across.dtype, across.shape) == (np.float32, (1, width, 1))
    np.testing.assert_allclose(across.ravel()[: len(expected)], expected, atol=1e-4)
    down = pixels.resize(line(values).transpose(1, 0, 2), width, 1, "corner", interpolation)
    np.testing.assert_allclose(down.ravel()[: len(expected)], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "room", "sampling", "inner", "shares"),
    [
        ((200, 400), (100, 100), "corner", (50, 100), (0.5, 1.0)),
        ((400, 200), (100, 100), "corner", (100, 50), (1.0, 0.5)),
        ((50, 25), (100, 100), "corner", (100, 50), (1.0, 0.5)),  # enlarged
        # 427 * 320 / 640 = 213.5: to the even neighbour, or down.
        ((427, 640), (320, 320), "corner", (214, 320), (214 / 320, 1.0)),
        ((427, 640), (320, 320), "half-pixel", (213, 320), (213.5 / 320, 1.0)),
        ((480, 640), (480, 640), "corner", (480, 640), (1.0, 1.0)),
        ((480, 640), (240, 640), "corner", (240, 320), (1.0, 0.5)),
        ((1, 4000), (100, 100), "corner", (1, 100), (0.01, 1.0)),  # never nothing
    ],
)
def test_where_a_letterboxed_photograph_lies(
    source: tuple[int, int],
    room: tuple[int, int],
    sampling: str,
    inner: tuple[int, int],
    shares: tuple[float, float],
) -> None:
    found = pixels.placed(*source, *room, feeding.letterbox((0, 0, 0), sampling))
    assert found[0] == inner
    assert found[1] == pytest.approx(shares, abs=1e-6)
    assert pixels.placed(*source, *room, feeding.ASSUMED) == (room, (1.0, 1.0))


def test_letterboxed_pixels() -> None:
    image = np.full((2, 4, 3), (10, 20, 30), np.uint8)
    whole = pixels.fed(image, 4, 4, feeding.letterbox((1.5, 2, 3)))
    assert whole.dtype == np.float32
    assert whole[:2].reshape(-1, 3).tolist() == [[10, 20, 30]] * 8
    assert whole[2:].reshape(-1, 3).tolist() == [[1.5, 2, 3]] * 8
    assert pixels.fed(image, 4, 4, feeding.ASSUMED).reshape(-1, 3).tolist() == [[10, 20, 30]] * 16


def test_boxes_in_the_photograph() -> None:
    # The photograph covers the upper half of the input.
    items = [{"box": [0.1, 0.2, 0.3, 0.4], "score": 0.5}, {"box": [0.6, 0.0, 0.9, 0.5]}]
    assert pixels.in_photograph(items, (1.0, 1.0)) is items
    [inside] = pixels.in_photograph(items, (0.5, 1.0))  # the other one is in the filling
    assert inside == {"box": [0.2, 0.2, 0.6, 0.4], "score": 0.5}


def save(folder: Path, **sizes: tuple[int, int]) -> None:
    for name, size in sizes.items():
        Image.new("RGB", size, (1, 2, 3)).save(folder / f"{name}.png")


def test_square_images_get_crops(tmp_path: Path) -> None:
    save(tmp_path, a=(320, 320), b=(100, 108))
    found = {name: image.shape[:2] for name, image in pixels.pictures(tmp_path, crops=True)}
    assert found == {
        "a.png": (320, 320),
        "b.png": (108, 100),
        "a.png (16:9)": (180, 320),
        "b.png (9:16)": (108, 61),
    }
    assert list(dict(pixels.pictures(tmp_path))) == ["a.png", "b.png"]
    save(tmp_path, c=(300, 200))  # one that is not square is enough
    assert list(dict(pixels.pictures(tmp_path, crops=True))) == ["a.png", "b.png", "c.png"]


def test_the_crop_is_the_middle(tmp_path: Path) -> None:
    rows = np.arange(9)[:, None].repeat(9, 1)
    assert pixels.crop(rows, 9, 3)[:, 0].tolist() == [3, 4, 5]
    assert pixels.crop(rows.T, 3, 9)[0].tolist() == [3, 4, 5]
    assert pixels.crop(rows, 1, 1).shape == (9, 9)
