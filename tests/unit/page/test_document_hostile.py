"""Records that would make the page's writer work without end: it writes one in seconds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_dist
import pytest

from kiln.page.document import render
from kiln.release.notes import notes

pytest.importorskip("ai_edge_litert")

#: Seconds of processor time, on any machine, of what took 40 and more.
MOST = 30.0


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("page") / "dist"
    folder = page_dist.toy_dist(dist)
    page_dist.add_checks(folder, page_dist.toy_images(dist.parent / "images"))
    return dist


def long_names(checks: dict[str, Any], _: dict[str, Any]) -> None:
    for images in (checks["source"]["detections"], checks["variants"]["int8"]["detections"]):
        for found in images.values():
            for item in found[:3]:
                item["label"] = "W" * 100_000


def crowds(checks: dict[str, Any], _: dict[str, Any]) -> None:
    for images in (checks["source"]["detections"], checks["variants"]["int8"]["detections"]):
        name = min(images)
        images[name] = [
            {"box": [0, 0, 1, 1], "score": 0.9, "class_id": number % 2, "label": "a"}
            for number in range(15_000)
        ]


def many_files(_: dict[str, Any], conversion: dict[str, Any]) -> None:
    one = conversion["artefacts"]["float32"]
    conversion["artefacts"].update({f"v{number}": one for number in range(10_000)})


def many_images(checks: dict[str, Any], _: dict[str, Any]) -> None:
    one = next(iter(checks["images"].values()))
    checks["images"].update({f"i{number}": one for number in range(20_000)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (long_names, ""),
        (crowds, "15,000 detections in one image: more than 200 are not shown"),
        (many_files, "files in conversion.json: more than 20 are not shown"),
        (many_images, "images in checks.json: more than 200 are not shown"),
    ],
)
def test_work_is_bounded(
    built: Path, tmp_path: Path, change: Callable[..., None], words: str
) -> None:
    dist = tmp_path / "dist"
    shutil.copytree(built, dist)
    paths = [dist / "toy" / name for name in ("checks.json", "conversion.json")]
    records = [page_dist.read(path) for path in paths]
    change(*records)
    for path, record in zip(paths, records, strict=True):
        page_dist.write(path, record)
        assert path.stat().st_size < 4 << 20
    start = time.process_time()
    assert words in render(dist)
    notes(dist, "v1")
    assert time.process_time() - start < MOST


def test_artefacts_are_read_as_strangers_are(built: Path, tmp_path: Path) -> None:
    """The stage code's own reader, which takes what stages wrote, would not come back from this."""
    from hostile_models import HOSTILE

    dist = tmp_path / "dist"
    shutil.copytree(built, dist)
    for name, data in zip(("float32", "int8"), ("exabytes", "options"), strict=True):
        (dist / "toy" / f"toy_{name}.tflite").write_bytes(HOSTILE[data])
    start = time.process_time()
    assert render(dist).count("over and over") >= 2
    assert time.process_time() - start < MOST
