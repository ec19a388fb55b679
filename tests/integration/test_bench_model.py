"""Latencies by the real command: measured in the image, and nothing of it is kept."""

from __future__ import annotations

import json
from pathlib import Path

from places import FIXTURES
from support import Kiln

from kiln.images.lock import Locked


def test_times_are_measured_in_the_image(fresh: Kiln, device: Locked, tmp_path: Path) -> None:
    junk = tmp_path / "junk.tflite"
    junk.write_bytes(b"hello")
    words = ("bench-model", FIXTURES / "toy_ssd.tflite", junk, "--threads", "1", "--runs", "3")
    ended = fresh(*words, "--json")
    assert ended.code == 14
    assert "junk.tflite cannot be timed" in ended.out and "TFL3" in ended.out
    lines = [json.loads(line) for line in ended.out.splitlines()]
    (time,) = [line for line in lines if line["event"] == "latency"]
    assert (time["file"], time["runs"]) == ("toy_ssd.tflite", 3)
    assert time["runtime"].startswith("ai-edge-litert ") and time["median_ms"] > 0
    # A store of its own: in the shared one other tests' builds leave results meanwhile.
    assert not list((fresh.store / "results").glob("*"))
    assert fresh.leftovers() == []
