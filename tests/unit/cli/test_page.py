"""``kiln page`` as it is called."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import page_dist
import pytest
from places import ROOT

from kiln.core.errors import UsageError
from kiln.page.document import render

pytest.importorskip("ai_edge_litert")


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A release of one checked model."""
    dist = tmp_path / "dist"
    page_dist.add_checks(page_dist.toy_dist(dist), page_dist.toy_images(tmp_path / "images"))
    return dist


def kiln_page(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kiln.cli", "page", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "KILN_PROJECT": str(ROOT)},
    )


def test_command(dist: Path, tmp_path: Path) -> None:
    written = kiln_page("--dist", dist, "--json")
    assert written.returncode == 0, written.stderr
    page = (dist / "index.html").read_text("utf-8")
    assert page == render(dist)
    key = hashlib.sha256((dist / "kiln.pub").read_bytes()).hexdigest()
    assert key in page, "the page names the key that it was signed with, not an earlier one"
    assert json.loads(written.stdout) == {
        "event": "page",
        "file": str(dist / "index.html"),
        "size": len(page.encode()),
    }
    elsewhere = kiln_page("--dist", dist, "--out", tmp_path / "other.html")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert (tmp_path / "other.html").read_text("utf-8") == page
    refused = kiln_page("--dist", tmp_path / "nowhere")
    assert refused.returncode == UsageError.exit_code
    assert "Traceback" not in refused.stderr
    assert "There is no release in" in refused.stderr
