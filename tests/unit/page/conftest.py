"""A checked release of one model."""

from __future__ import annotations

import shutil
from pathlib import Path

import page_dist
import pytest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of one checked model."""
    dist = tmp_path_factory.mktemp("made") / "dist"
    folder = page_dist.toy_dist(dist)
    page_dist.add_checks(folder, page_dist.toy_images(dist.parent / "images"))
    return dist


@pytest.fixture
def dist(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(made, tmp_path / "dist"))
