"""A training's folder, and pictures, for the tests of this package."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_folder import CONFIG, LABELS, STATE, photo, save

from kiln.building.from_training import Given


@pytest.fixture
def training(tmp_path: Path) -> Path:
    folder = tmp_path / "Möwen & Boote" / "training"
    for number in (1, 2, 3):
        save(folder, f"ckpt-{number}")
    (folder / "checkpoint").write_text(STATE.format("/gone/ckpt-2"))
    (folder / "pipeline.config").write_text(CONFIG)
    (folder / "labels.pbtxt").write_text(LABELS)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "one.JPG").write_bytes(photo())
    return folder


@pytest.fixture
def plain(training: Path) -> Given:
    """The two arguments that nobody can leave away."""
    return Given(training, training / "labels.pbtxt")
