"""Bundles of a small project."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_bundle import create
from toy_offline import Offline, make_offline


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    root = tmp_path_factory.mktemp("offline")
    return make_offline(root / "project", root / "store")


@pytest.fixture(scope="module")
def bundle(offline: Offline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with everything."""
    return create(offline, tmp_path_factory.mktemp("bundle") / "all.tar")


@pytest.fixture(scope="module")
def small(offline: Offline, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same without images, in memory."""
    target = tmp_path_factory.mktemp("small") / "small.tar"
    return create(offline, target, images=False).read_bytes()
