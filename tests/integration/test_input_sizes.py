"""Inputs that a feature extractor does not take: told in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import zoo
from families import FAMILIES, LABEL_MAP
from support import Kiln, Stages, Wanted

from kiln.core.stage_result import StageResult

#: Family to: size, and what is said of it (nothing where it is fine).
SIZES = {
    "ssd_mobilenet_v2": {(32, 32): "at least 33x33", (100, 100): ""},
    "ssd_mobilenet_v2_fpnlite": {(100, 96): "Incompatible shapes: [1,8,6,64] vs. [1,7,6,64]"},
    "ssd_resnet50_v1_fpn": {(128, 160): "at least 129x129"},
    "efficientdet_d0": {
        (128, 128): "at least 129x129",
        (160, 160): "[1,3,3,64] != values[1].shape = [1,4,4,64]",
    },
    # The export of the second one's checkpoint, of which no variables are made before.
    "traced": {(100, 96): "Dimensions must be equal, but are 8 and 7"},
}
#: The family that is exported, at a size that its extractor takes and its pyramid does not.
EXPORTED, UNEVEN = "ssd_mobilenet_v2_fpnlite", (100, 96)


@pytest.fixture(scope="module")
def made(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    """What is said, by family; and ``trained``, a checkpoint of one of them."""
    place = tmp_path_factory.mktemp("configs")
    for name in SIZES.keys() & FAMILIES.keys():
        (place / name).mkdir()
        (place / name / "pipeline.config").write_text(FAMILIES[name].config)
    given = {"pipeline_config": place / EXPORTED / "pipeline.config"}
    wanted = [Wanted("trained", "make_checkpoint", {"seed": 1}, given)]
    for name, sizes in SIZES.items():
        model = place / name if name in FAMILIES else ("trained", "model")
        tried = {"sizes": [list(size) for size in sizes]}
        wanted.append(Wanted(name, "input_sizes", tried, {"model": model}))
    return stages.run(*wanted)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_said(made: dict[str, StageResult], name: str) -> None:
    for (height, width), words in SIZES[name].items():
        said = made[name].facts[f"{height}x{width}"]
        if not words:
            assert said == []
            continue
        kind, message, remedy = said
        assert kind == "unsupported-model"
        assert f"{height}x{width} pixels" in message
        assert words in message
        assert "\n" not in message
        assert "layer" not in message
        for way in ("export.image_size", "image_resizer", "multiples of 32", "128"):
            assert way in remedy


def test_told_to_the_user(
    made: dict[str, StageResult], stages: Stages, shared: Kiln, tmp_path: Path
) -> None:
    for path, data in zoo.files_of(made["trained"], stages.store).items():
        (tmp_path / "trained" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "trained" / path).write_bytes(data)
    (tmp_path / "labels.pbtxt").write_text(LABEL_MAP)
    size = "x".join(map(str, UNEVEN))
    given = ["--checkpoint", tmp_path / "trained", "--label-map", tmp_path / "labels.pbtxt"]
    given += ["--variant", "float32", "--image-size", size, "-o", shared.dist]
    shared("convert", *given).refused(14, f"{size} pixels", "pyramid", "export.image_size")
