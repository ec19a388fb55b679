"""What hostile tests need; those that ask for an engine are integration tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from hostile.forge import Forge
from hostile.sound_release import Workshop
from kiln.core.errors import EngineUnavailableError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.running.engine import Engine

_OF_AN_ENGINE = {"sealed", "forge"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and _OF_AN_ENGINE & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder with a short path, where a container's user can get to."""
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def sealed() -> tuple[str, str]:
    """The sealed image's tag, and the engine's address."""
    try:
        engine = Engine.find()
    except EngineUnavailableError as error:
        if os.environ.get("KILN_REQUIRE_ENGINE") == "1":
            pytest.fail(f"KILN_REQUIRE_ENGINE is set: {error}", pytrace=False)
        pytest.skip(str(error))
    images = Images(ROOT / "docker", lambda: engine, Store(Store.default_root()))
    return images.ensure("odapi").tag, engine.address


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Sound releases."""
    return Workshop.open(tmp_path_factory.mktemp("hostile") / "workshop")


@pytest.fixture(scope="session")
def forge(sealed: tuple[str, str]) -> Iterator[Forge]:
    """Builds of seconds; the sample's results come from the tests' store where they are there."""
    store = os.environ.get("KILN_TEST_STORE")
    with tempfile.TemporaryDirectory(prefix="forge-") as folder:
        yield Forge.open(Path(folder) / "f", sealed[1], Path(store) if store else None)
