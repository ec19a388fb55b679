"""Interpreters for the process that runtimes are loaded into."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from places import ROOT

from kiln.checks import worker_process


def use(monkeypatch: pytest.MonkeyPatch, python: Path | str = sys.executable) -> None:
    """Let kiln start ``python``; by default this one, which has LiteRT but no MediaPipe."""
    monkeypatch.setenv("KILN_PROJECT", str(ROOT))
    monkeypatch.setenv(worker_process.PYTHON_VARIABLE, str(python))


def with_runtimes() -> Path | None:
    """The interpreter of ``make runtimes``, where it was run."""
    python = ROOT / worker_process.ENVIRONMENT / "bin" / "python"
    return python if python.exists() else None


def script(folder: Path, text: str) -> Path:
    """A shell script in place of the interpreter."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def with_module(folder: Path, name: str, code: str) -> Path:
    """This interpreter with a distribution ``name`` whose import runs ``code``."""
    site = folder / "site"
    module = site / name.replace("-", "_")
    module.mkdir(parents=True)
    (module / "__init__.py").write_text(code)
    info = site / f"{name.replace('-', '_')}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    return script(folder, f'PYTHONPATH="{site}" exec "{sys.executable}" "$@"')
