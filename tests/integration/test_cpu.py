"""A sample's bytes under another processor: the short form of ``make cpu-check``.

One architecture: emulated, the others' exports take far longer than a test run has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from support import SAMPLE

from kiln.core.errors import SourceUnavailableError
from kiln.core.store import Store
from kiln.images.lock import Locked
from proofs.variations.emulation import find_emulator


def test_bytes_do_not_depend_on_the_processor(store: Store, odapi: Locked, project: Path) -> None:
    """And the control, a plain export, does: the check can fail. Takes about five minutes."""
    try:
        find_emulator(store)
    except SourceUnavailableError as error:
        pytest.skip(str(error))
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "proofs.cpu_check",
            SAMPLE,
            "--variant",
            "float32",
            "--cpu",
            "SandyBridge",
            "--control",
        ],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "KILN_STORE": str(store.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "identical" in ended.stdout
    assert "DIFFERS" in ended.stdout  # the control
