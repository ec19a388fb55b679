"""For all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from isolation import Isolation, new_home

from kiln.signing.keys import SigningKey, load_or_create_key

# Times are measured by `make bench`: a busy machine must not fail a property that holds.
settings.register_profile("kiln", deadline=None)
settings.load_profile("kiln")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    """A signing key."""
    return load_or_create_key(tmp_path_factory.mktemp("key") / "mine.pem")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    """Somebody else's."""
    return load_or_create_key(tmp_path_factory.mktemp("key") / "theirs.pem")


#: Files that take minutes, the longest first: begun last, one of them would keep a single process
#: busy while the others have nothing left. (Measured by ``--durations``, set-up included.)
LONGEST_FIRST = (
    "test_families.py",
    "test_centernet.py",
    "test_saboteurs.py",
    "test_where_it_runs.py",
    "test_modelmaker.py",
    "test_own_saved_model.py",
    "test_own_model.py",
    "test_hostile_models.py",
    "test_zoo.py",
    "test_killed.py",
    "test_circumstances.py",
    "test_determinism.py",
    "test_wheel.py",
    "test_sample_accuracy.py",
    "test_bad_input.py",
    "test_cpu.py",
)

_isolation = pytest.StashKey[Isolation]()


def pytest_configure(config: pytest.Config) -> None:
    """Tests see a home and an environment of their own from here on; nothing is collected yet.

    Processes that share the tests share a store: what one has built the others need not.
    """
    if not hasattr(config, "workerinput") and config.getoption("numprocesses", None):
        # No test runs in this process. The others start with its environment, the caller's.
        if "KILN_TEST_STORE" not in os.environ:
            folder = Path(tempfile.mkdtemp(prefix="kiln-tests-store-"))
            folder.chmod(0o755)  # stages read it as another user
            os.environ["KILN_TEST_STORE"] = str(folder)
            config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        return
    # Whoever starts tests in the background lets them ignore SIGINT, and so what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = new_home()
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    config.stash[_isolation] = Isolation(home)
    config.stash[_isolation].enter(integration=False)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order files by :data:`LONGEST_FIRST`, integration tests before unit tests.

    Nightly tests are left out, unless ``-m`` names them or there are no others among the tests that
    somebody chose (by path, by id, with ``-k``).
    """
    nightly = [item for item in items if item.get_closest_marker("nightly") is not None]
    others = [item for item in items if item.get_closest_marker("nightly") is None]
    if others and "nightly" not in config.getoption("markexpr"):
        config.hook.pytest_deselected(items=nightly)
        items[:] = others
    rank = {name: number for number, name in enumerate(LONGEST_FIRST)}

    def place(item: pytest.Item) -> tuple[int, bool]:
        unit = item.get_closest_marker("integration") is None
        return rank.get(item.path.name, len(rank)) if not unit else len(rank), unit

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of a test, whatever its scope."""
    integration = item.get_closest_marker("integration") is not None
    item.config.stash[_isolation].enter(integration=integration)
