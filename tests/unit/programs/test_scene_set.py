"""Scenes in COCO's layout, as `kiln accuracy` reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scenes
from PIL import Image

from kiln.measure import coco
from samples import scene_set


@pytest.mark.parametrize("model", scene_set.SIDES)
def test_what_is_written_is_a_data_set(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scene_set", model, str(tmp_path / "set"), "--count", "2"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    scene_set.main()
    data = coco.read(tmp_path / "set")
    assert [picture.file for picture in data.pictures] == ["000.png", "001.png"]
    assert {item.picture for item in data.objects} == {0, 1}
    side = scene_set.SIDES[model]
    for picture in data.pictures:
        with Image.open(tmp_path / "set" / "images" / picture.file) as image:
            assert image.size == (side, side)
    if not model.startswith("ssd"):
        scene = scenes.scene(scenes.VALIDATION + scene_set.FIRST, side, side)
        boxes = [item.box for item in data.objects if item.picture == 0]
        corners = [[y, x, y + height, x + width] for x, y, width, height in boxes]
        assert np.allclose(corners, scene.boxes)
