"""What ``kiln accuracy`` refuses before an engine is asked, and how it shows figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from places import ROOT

from kiln.cli import accuracy
from kiln.core.errors import EngineUnavailableError, UsageError
from kiln.measure.bootstrap import Interval
from kiln.measure.report import Difference, Measured, Report
from kiln.measure.scoring import Scores

MODEL = "ssd_mobilenet_v2_oidv4"


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """One picture with a mouse, in COCO's words."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "images" / "a.png")
    table = {
        "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 5, 9, 9]}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "mouse"}],
    }
    (root / "instances.json").write_text(json.dumps(table))
    return root


def run(data_set: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kiln.cli", "accuracy", MODEL, "--coco", str(data_set), *words]
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "scripts"),
        "KILN_PROJECT": str(ROOT),
        "KILN_STORE": str(data_set.parent / "store"),
        "DOCKER_HOST": "unix:///nowhere/docker.sock",
    }
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--alias", "Computer mouse=mose"], "Did you mean 'mouse'?"),
        (["--alias", "Computer mose=mouse"], "Did you mean 'Computer mouse' or"),
    ],
)
def test_refused_at_once(data_set: Path, words: list[str], said: str) -> None:
    ended = run(data_set, *words)
    assert ended.returncode == UsageError.exit_code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_right_alias_gets_as_far_as_the_engine(data_set: Path) -> None:
    ended = run(data_set, "--alias", "Computer mouse=mouse", "--fit", "stretch")
    assert ended.returncode == EngineUnavailableError.exit_code, ended.stderr


def test_the_table() -> None:
    intervals = {"ap": Interval(0.19612, 0.2407)}
    source = Measured("source", Scores(0.218, 0.34, 0.23, 0.3), intervals=intervals)
    int8 = Measured(
        "int8",
        Scores(0.2015, 0.33, 0.21, 0.29),
        0.2,
        "cd",
        {"ap": Interval(0.18, 0.225)},
        Difference(-0.0165, Interval(-0.0281, -0.0004)),
    )
    report = Report("toy", "scenes", "ab", "ef", 193, 193, 0, 10, 80, (source, int8))
    head, first, second, blank, *remarks = accuracy._text(report).splitlines()
    assert head.split("  ")[0] == "toy"
    assert first.split()[:5] == ["source", "0.2180", "0.196", "to", "0.241"]
    assert second.startswith("int8 ")
    assert "  0.180 to 0.225  0.3300  0.2100  0.2900  -0.0165  " in second
    assert second.endswith("  -0.028 to +0.000  0.200 ± 0.01")
    assert blank == ""
    assert remarks == report.remarks()
    assert accuracy._fields(report, int8)["difference_interval"] == [-0.0281, -0.0004]
    assert accuracy._fields(report, int8)["noise"] is False
    assert accuracy._fields(report, source)["intervals"] == {"ap": [0.19612, 0.2407]}
    assert accuracy._fields(report, source)["difference"] is None
