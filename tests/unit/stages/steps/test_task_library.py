"""Which files the Task Library is not asked about; what it finds: tests/integration."""

from __future__ import annotations

import json
from pathlib import Path

from int8_toy import int8_toy
from places import FIXTURES

from stages.steps import task_library


def test_an_int8_input_is_not_for_it(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(int8_toy())
    inputs = {"model": tmp_path / "model.tflite"}
    facts = task_library.run({"score_threshold": 0.3}, inputs, tmp_path, None)
    assert facts == {"gates": {"runtime-task-library": "skipped"}}
    (gate,) = json.loads((tmp_path / "check.json").read_text())["gates"]
    assert "microcontrollers" in gate["summary"]


def test_raw_outputs_are_not_for_it(tmp_path: Path) -> None:
    inputs = {"model": FIXTURES / "toy_raw_annotated.tflite"}
    task_library.run({"score_threshold": 0.3}, inputs, tmp_path, None)
    (gate,) = json.loads((tmp_path / "check.json").read_text())["gates"]
    assert gate["status"] == "skipped"
    assert gate["summary"].startswith("not applicable: ")


def test_others_are(tmp_path: Path) -> None:
    for name in ("toy_ssd_annotated", "toy_ssd_uint8_annotated", "toy_centernet_annotated"):
        assert task_library.unsupported(FIXTURES / f"{name}.tflite") == ""
    (tmp_path / "text").write_text("no model")
    assert task_library.unsupported(tmp_path / "text") == ""
