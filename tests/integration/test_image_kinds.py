"""Every kind of image that the driver takes is decoded in every sealed image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import Stages, Wanted

from kiln.sources.pictures import SUFFIXES

SIZE = (48, 32)  # width and height in pixels


@pytest.mark.parametrize("fixture", ["stages", "lite_stages", "device_stages"])
def test_every_kind_is_decoded(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    stages: Stages = request.getfixturevalue(fixture)
    small = Image.radial_gradient("L").convert("RGB").resize(SIZE)  # smooth: JPEG keeps it
    for suffix in SUFFIXES:
        lossless = {"lossless": True} if suffix == ".webp" else {}
        small.save(tmp_path / f"photo{suffix}", **lossless)
    done = stages.run(Wanted("small", "previews", {}, {"images": tmp_path}))["small"]
    size = {"height": SIZE[1], "width": SIZE[0]}
    assert done.facts["images"] == {f"photo{suffix}": size for suffix in SUFFIXES}
    for name, blob in done.files.items():
        with Image.open(stages.store.path(blob.sha256)) as made:
            apart = np.abs(np.asarray(made, np.int16) - np.asarray(small, np.int16))
        assert apart.mean() < 3, name
