"""The embedded sample's files are the ones its documents describe."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest
from places import SAMPLES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from stages.files import labelmap
from stages.tflite.tflite_model import read

MODEL = SAMPLES / "ssd_mobilenet_v2_oidv4"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _images() -> list[dict[str, object]]:
    with (SAMPLES / "images" / "images.toml").open("rb") as file:
        loaded: list[dict[str, object]] = tomllib.load(file)["image"]
    return loaded


def test_images_are_listed_with_digest_and_licence() -> None:
    listed = {str(image["file"]): image for image in _images()}
    there = {p.name for p in (SAMPLES / "images").iterdir() if p.suffix in {".png", ".jpg"}}
    assert set(listed) == there
    notes = (SAMPLES / "images" / "LICENCES.md").read_text()
    for name, image in listed.items():
        assert _sha256(SAMPLES / "images" / name) == image["sha256"]
        assert f"| `{name}` |" in notes
    assert sum((SAMPLES / "images" / name).stat().st_size for name in there) < 3_000_000


def test_expected_labels_are_labels_of_the_model() -> None:
    names = (MODEL / "weights" / "object_detection_oidv4_labelmap.txt").read_text().split("\n")
    expected = {label for image in _images() for label in image["expected"]}  # type: ignore[attr-defined]
    assert expected == {"Person", "Cat", "Coffee cup"}
    assert expected <= set(names)


@pytest.mark.parametrize("path", sorted((MODEL / "weights").iterdir()), ids=lambda p: p.name)
def test_weights_are_what_the_attribution_says(path: Path) -> None:
    row = re.search(
        rf"\| `{re.escape(path.name)}` \| ([\d,]+) \| `([0-9a-f]{{64}})` \|",
        (MODEL / "ATTRIBUTION.md").read_text(),
    )
    assert row is not None
    assert path.stat().st_size == int(row[1].replace(",", ""))
    assert _sha256(path) == row[2]


def test_label_map_agrees_with_the_label_file() -> None:
    names = (MODEL / "weights" / "object_detection_oidv4_labelmap.txt").read_text().splitlines()
    items = labelmap.load(MODEL / "label_map.pbtxt").items
    assert [item.label for item in items] == names[1:]


def test_mapping_names_every_convolution_of_the_weights() -> None:
    weights = MODEL / "weights" / "object_detection_ssd_mobilenetv2_oidv4_fp16.tflite"
    convolutions = [op for op in read(weights.read_bytes()).graph.operators if op.builtin in (3, 4)]
    rows = [line.split("\t") for line in (MODEL / "mapping.tsv").read_text().splitlines()]
    assert len(rows) == len(convolutions) == 72
    assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == 72
