from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stages.files import drawing

BACKGROUND = (90, 90, 90)


def detection(box: list[float], class_id: int = 1, score: float = 0.9) -> dict[str, object]:
    return {"box": box, "score": score, "class_id": class_id, "label": f"class {class_id}"}


def painted(image: Image.Image) -> np.ndarray:
    return np.any(np.asarray(image) != BACKGROUND, axis=-1)


def test_boxes_are_where_they_should_be() -> None:
    image = Image.new("RGB", (400, 300), BACKGROUND)
    drawn = drawing.draw(image, [detection([0.25, 0.5, 0.75, 1.0], class_id=3)])
    assert drawn.size == image.size
    color = drawing.color(3)
    for x, y in ((200, 150), (399, 150), (300, 224)):  # left, right, bottom edge
        assert drawn.getpixel((x, y)) == color
    assert drawn.getpixel((300, 150)) == BACKGROUND  # inside
    assert not painted(drawn)[:, :190].any()
    assert painted(drawn)[:75, 200:].any()  # the name, above the box
    assert not painted(image).any()  # a copy was drawn on


@pytest.mark.parametrize("size", [(640, 480), (64, 64), (20, 10), (1, 1)])
@pytest.mark.parametrize(
    "box", [[0, 0, 1, 1], [-0.5, -1, 2, 3], [0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]]
)
def test_any_box_on_any_image(size: tuple[int, int], box: list[float]) -> None:
    image = Image.new("L", size, 90)
    drawn = drawing.draw(image, [detection(box)])
    assert (drawn.size, drawn.mode) == (size, "RGB")
    assert painted(drawn).any()


def test_nothing_to_draw() -> None:
    image = Image.new("RGB", (10, 10), BACKGROUND)
    assert not painted(drawing.draw(image, [])).any()


def test_the_best_is_on_top_whatever_the_order() -> None:
    image = Image.new("RGB", (200, 200), BACKGROUND)
    items = [detection([0.2, 0.2, 0.8, 0.8], 1, 0.9), detection([0.2, 0.2, 0.8, 0.8], 2, 0.3)]
    one, two = drawing.draw(image, items), drawing.draw(image, items[::-1])
    assert one.tobytes() == two.tobytes()
    assert one.getpixel((40, 100)) == drawing.color(1)


def test_colors_differ() -> None:
    assert len({drawing.color(index) for index in range(1, 91)}) == 90
