"""The stage that measures: that every file gets its figures or its reason."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
from places import FIXTURES

from stages.steps import latency

pytest.importorskip("ai_edge_litert.compiled_model")


class Emitted:
    """Takes a stage's messages."""

    def progress(self, *_: Any) -> None:
        pass


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("toy_centernet_annotated", "toy_ssd", "toy_ssd_uint8"):
        shutil.copy(FIXTURES / f"{name}.tflite", folder)
    return folder


def run(models: Path, *threads: int, **params: Any) -> dict[str, Any]:
    given = {**latency.PARAMS, "warmup": 0, "runs": 2, "threads": threads, **params}
    return latency.run(given, {"models": models}, models.parent, Emitted())


def test_every_kind_of_input_and_number_of_threads(models: Path) -> None:
    found = run(models, 1, 2, warmup=1, runs=7)
    assert found["failed"] == {} and found["runtime"].startswith("ai-edge-litert 2.")
    files = sorted(path.name for path in models.iterdir())
    assert [(item["file"], item["threads"]) for item in found["times"]] == [
        (file, count) for count in (1, 2) for file in files
    ]
    for item in found["times"]:
        assert 0 < item["min_ms"] <= item["median_ms"] <= item["p90_ms"]
        assert item["min_ms"] <= item["mean_ms"] and item["runs"] == 7


def test_seconds_make_at_least_one_round(models: Path) -> None:
    assert run(models, 1, seconds=1e-9)["times"][0]["runs"] >= 1
    assert run(models, 1, seconds=0.2)["times"][0]["runs"] > 1


def test_a_damaged_file_is_left_out_with_its_reason(models: Path) -> None:
    data = (models / "toy_ssd.tflite").read_bytes()
    (models / "cut.tflite").write_bytes(data[: len(data) // 2])
    (models / "junk.tflite").write_bytes(b"hello")
    found = run(models, 1, 2)
    assert found["failed"].keys() == {"cut.tflite", "junk.tflite"}
    assert "truncated or damaged" in found["failed"]["cut.tflite"]
    assert len(found["times"]) == 2 * 3


def test_a_crash_costs_the_file_that_it_happens_at(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, bad = latency.interpreter, (models / "toy_ssd.tflite").read_bytes()

    def fatal(data: bytes, threads: int) -> Any:
        if data == bad:
            os.kill(os.getpid(), signal.SIGABRT)
        return real(data, threads)

    monkeypatch.setattr(latency, "interpreter", fatal)
    found = run(models, 1)
    assert [item["file"] for item in found["times"]] == [
        "toy_centernet_annotated.tflite", "toy_ssd_uint8.tflite",
    ]  # fmt: skip
    assert "SIGABRT" in found["failed"]["toy_ssd.tflite"]


def test_statistics() -> None:
    times = [9.0, 1.0, 5.0, 3.0, 7.0, 2.0, 8.0, 4.0, 6.0, 10.0, 11.0]
    found = latency.statistics_of(times)
    assert found == {"median_ms": 6.0, "p90_ms": 10.0, "min_ms": 1.0, "mean_ms": 6.0, "runs": 11}
    assert latency.statistics_of([2.0])["p90_ms"] == 2.0
    assert statistics.median(times) == found["median_ms"]
