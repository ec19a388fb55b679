"""The same bytes under other circumstances, in real builds; and a stage that cheats is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from toy_stages import MODEL, add_toy

from kiln.images.lock import Locked
from kiln.project.folders import Project
from proofs.variations.varied_run import copy_checkout

pytestmark = pytest.mark.integration

SAMPLE = "ssd_mobilenet_v2_oidv4"


def run(project: Path, model: str, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "proofs.reproducibility", model, "--json",
         "--variant", "float32", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "KILN_PROJECT": str(project)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def of(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {event["name"]: event for event in events if event["event"] == "circumstance"}


@pytest.mark.nightly  # two whole conversions; `make reproducibility` does more of them
@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the host's name")
def test_everything_at_once(engine: object) -> None:
    code, events = run(ROOT, SAMPLE, "--short")
    rows = of(events)
    assert code == 0, events[-1]
    assert not rows["all at once"]["skipped"] and rows["all at once"]["differing"] == []
    assert {**rows["as it is"]["digests"]}.items() < rows["all at once"]["digests"].items()
    assert "images base" in rows["all at once"]["digests"]


def test_a_stage_that_tells_the_time_zone(engine: object, odapi: Locked, tmp_path: Path) -> None:
    """Toy stages in the real image: whether a stage cheats does not depend on TensorFlow."""
    copy_checkout(ROOT, tmp_path / "copy", reverse=False)
    project = Project(tmp_path / "copy")
    add_toy(project)
    stage = project.stages / "steps" / "annotate.py"
    text = stage.read_text("utf-8")
    told = text.replace(".digest())", '.digest() + __import__("time").tzname[0].encode())')
    assert told != text
    arguments = ("--only", "time zone", "--no-images")
    code, events = run(project.root, MODEL, *arguments)
    assert code == 0, events[-1]
    stage.write_text(told, "utf-8")
    code, events = run(project.root, MODEL, *arguments)
    assert code == 41
    assert of(events)["time zone"]["differing"] == [f"{MODEL} float32"]
    assert "time zone" in events[-1]["message"]
