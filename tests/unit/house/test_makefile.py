"""What ``make env`` and ``make dev`` ask of pip, and when."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

RUN, DEV = "requirements.lock", "requirements-dev.lock"

# In the place of an environment's Python: writes down its arguments and whose settings it sees.
RECORDER = '#!/bin/sh\necho "${PIP_CONFIG_FILE-the user\'s} $*" >> calls\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "scripts" / "locks").mkdir(parents=True)
    for lock in (ROOT / "scripts" / "locks").glob("requirements*.lock"):
        shutil.copy(lock, tmp_path / "scripts" / "locks")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(RECORDER)
    python.chmod(0o755)
    return tmp_path


def asked(checkout: Path, *targets: str) -> list[str]:
    """What pip is asked to install: the file's name of a lock, or "kiln" itself."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    environment.pop("PIP_CONFIG_FILE", None)
    subprocess.run(["make", "--silent", *targets], cwd=checkout, env=environment, check=True)
    calls = checkout / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    found = []
    for line in lines:
        lock = re.search(r" -r scripts/locks/(\S+)$", line)
        if lock:
            assert line.startswith("the user's -m pip install ") and "--require-hashes" in line
        else:
            # It needs no index, so it need not look at (and complain of) the user's settings.
            assert line.startswith("/dev/null -m pip install ") and line.endswith(" -e .")
            assert "--isolated" in line and "--no-index" in line
        assert "--no-deps" in line
        found.append(lock[1] if lock else "kiln")
    return found


def newer(checkout: Path, name: str) -> None:
    """A file is changed, as an update of the checkout does it."""
    path = checkout / name
    with path.open("a") as stream:
        stream.write("\n# changed\n")
    stamps = [(checkout / ".venv" / stamp) for stamp in (".run", ".dev")]
    latest = max(stamp.stat().st_mtime_ns for stamp in stamps if stamp.exists())
    os.utime(path, ns=(latest + 10**6, latest + 10**6))


def test_one_lock_is_installed_once(checkout: Path) -> None:
    assert asked(checkout, "dev") == [DEV, "kiln"]
    assert asked(checkout, "dev") == asked(checkout, "env") == asked(checkout, "dev", "env") == []


def test_more_is_installed_where_more_is_asked_for(checkout: Path) -> None:
    assert asked(checkout, "env") == [RUN, "kiln"]
    assert asked(checkout, "dev") == [DEV]
    assert asked(checkout, "dev") == []


def test_a_changed_lock_is_installed(checkout: Path) -> None:
    assert asked(checkout, "dev") == [DEV, "kiln"]
    newer(checkout, f"scripts/locks/{DEV}")
    assert asked(checkout, "env") == []
    assert asked(checkout, "dev") == [DEV]
    newer(checkout, f"scripts/locks/{RUN}")
    assert asked(checkout, "env") == [RUN, "kiln"]
    assert asked(checkout, "dev") == [DEV]
    newer(checkout, "pyproject.toml")
    assert asked(checkout, "dev") == [DEV, "kiln"]


def test_the_lock_of_tests_has_all_that_running_takes() -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / "scripts" / "locks" / name).read_text("utf-8")
        return set(re.findall(r"^[^\s#]+==.*?(?=\\?$)", text, re.MULTILINE))

    assert len(pins(RUN)) > 50
    assert pins(RUN) <= pins(DEV)
