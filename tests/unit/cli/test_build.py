"""What the command says to type next can really be typed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kiln.cli import build


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "my venv" / "kiln"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_on_the_path(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(program.parent))
    assert build.myself() == "kiln"


def test_not_on_the_path(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", "/nonexistent")
    assert build.myself() == f"'{program}'"


def test_another_kiln_is_on_the_path(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/kiln"])
    monkeypatch.setenv("PATH", str(program.parent))
    assert build.myself() == ".venv/bin/kiln"


def test_run_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/kiln/cli/__main__.py", "build"])
    assert build.myself() == "kiln"
