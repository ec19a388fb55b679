"""`make runtime-table`: what it compares, with LiteRT as the runtime."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import FIXTURES, ROOT

from proofs.runtimes import table
from proofs.runtimes.table import Comparison, Difference, Result, Runtime, difference
from stages.detect import detector

PYTHON = Path(sys.executable)
MODEL = "toy"


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """With pictures, and this test's own environment in place of the runtimes'."""
    folder = tmp_path / "scenes" / MODEL / "images"
    folder.mkdir(parents=True)
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    monkeypatch.setattr(Comparison, "_installed", lambda self, runtime: PYTHON)
    return Comparison(tmp_path, lambda line: None)


def runtime(kind: str) -> Runtime:
    return Runtime(kind, (), kind)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("litert", "toy_ssd"), ("compiled-model", "toy_ssd_uint8"), ("litert", "toy_raw")],
)
def test_a_runtime_s_outputs_become_detections(
    comparison: Comparison, tmp_path: Path, kind: str, name: str
) -> None:
    path = FIXTURES / f"{name}_annotated.tflite"
    comparison.run(runtime(kind), {(MODEL, "float32"): path})
    result = comparison.results[kind][MODEL, "float32"]
    assert result.refused == ""
    pictures = sorted((tmp_path / "scenes" / MODEL / "images").iterdir())
    images = [np.asarray(Image.open(picture)) for picture in pictures]
    assert result.found == [detector.load(path).detect(image) for image in images]
    assert any(result.found)


def test_a_refusal_is_in_the_runtime_s_words(comparison: Comparison, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tflite"
    data = (FIXTURES / "toy_ssd_annotated.tflite").read_bytes()
    name = b"TFLite_Detection_PostProcess"
    broken.write_bytes(data.replace(name, name[:-1] + b"x"))
    comparison.run(runtime("litert"), {(MODEL, "float32"): broken})
    said = comparison.results["litert"][MODEL, "float32"].refused
    assert "TFLite_Detection_PostProcesx" in said
    assert comparison.reasons("litert") == [said]


def box(score: float, left: float = 0.0, class_id: int = 1) -> dict[str, Any]:
    return {"box": [0.0, left, 1.0, left + 1.0], "score": score, "class_id": class_id}


@pytest.mark.parametrize(
    ("other", "expected", "words"),
    [
        ([box(0.9)], Difference(1, 1, 0.0, 1.0), "equal (1 of 1)"),
        ([box(0.8)], Difference(1, 1, 0.1, 1.0), "1 of 1, score 0.1, IoU 1.00"),
        ([box(0.9, 0.1)], Difference(1, 1, 0.0, 0.9 / 1.1), "1 of 1, score 0, IoU 0.82"),
        ([box(0.9, class_id=2)], Difference(1, 0, 0.0, 1.0), "0 of 1, score 0, IoU 1.00"),
        ([], Difference(1, 0, 0.0, 1.0), "0 of 1, score 0, IoU 1.00"),
    ],
)
def test_difference(other: list[Any], expected: Difference, words: str) -> None:
    found = difference(Result(found=[[box(0.9), box(0.2)]]), Result(found=[other]))
    assert (found.objects, found.common) == (expected.objects, expected.common)
    assert found.score == pytest.approx(expected.score)
    assert found.iou == pytest.approx(expected.iou)
    assert found.words() == words


def test_the_document_has_a_row_for_each() -> None:
    text = (ROOT / "docs" / "runtimes.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| (\w+|\w+, raw outputs) \| .* \|$", text, re.M)
    for item in table.runtimes():
        models = {model for name, model in rows if name == item.name}
        assert len(models) == 4, item.name


def test_runtimes_are_pinned() -> None:
    rows = table.runtimes()
    assert rows[0].kind == "tensorflow"
    for item in rows:
        assert all("==" in package for package in item.packages)
        version = item.packages[0].partition("==")[2]
        assert version in item.name, json.dumps(item.name)
