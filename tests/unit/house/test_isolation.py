"""Tests do not see whose machine they run on: here they run on one where everything is odd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import isolation
import pytest
from places import ROOT

from kiln.core.store import Store
from kiln.signing.keys import SigningKey, default_key_path

UNIT = ROOT / "tests" / "unit"

#: Of the unit tests, those that start commands, sign, look for an engine or name what they made.
RUN = (
    "house/test_isolation.py::test_what_is_seen",
    "house/test_isolation.py::test_the_home_is_no_ones",
    "cli/test_main.py",
    "cli/test_build.py",
    "cli/test_verify.py",
    "sources/test_debian.py",
    "images/test_definition.py",
    "signing/test_keys.py",
    "cli/test_page.py",
    "cli/test_plan.py",
    "signing/test_trust_file.py",
    "sources/test_pypi.py",
    "statements/test_release_statement.py",
)

NOWHERE, NOBODY = "/nonexistent", "http://127.0.0.1:1"
#: Variables that kiln, the libraries it uses or the programs that tests start would listen to.
ODD = {
    **dict.fromkeys(
        (
            "DOCKER_CERT_PATH", "DOCKER_CONFIG", "GIT_DIR", "KILN_PROJECT",
            "KILN_SIGNING_KEY", "KILN_SIGSTORE_CONFIG", "KILN_STORE", "PIP_CONFIG_FILE",
            "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "TFHUB_CACHE_DIR", "XDG_CACHE_HOME",
            "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
        ),
        NOWHERE,
    ),
    **dict.fromkeys(
        (
            "ACTIONS_ID_TOKEN_REQUEST_URL", "ALL_PROXY", "HTTP_PROXY", "KILN_DEBIAN_MIRROR",
            "KILN_DEBIAN_SNAPSHOT", "KILN_PYPI_INDEX", "PIP_INDEX_URL", "http_proxy",
        ),
        NOBODY,
    ),
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "odd",
    "COLUMNS": "20",
    "DOCKER_CONTEXT": "odd",
    "DOCKER_HOST": "tcp://127.0.0.1:1",
    "DOCKER_TLS_VERIFY": "1",
    "FORCE_COLOR": "1",
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "odd/odd",
    "GITHUB_WORKFLOW_REF": "odd/odd/.github/workflows/odd.yml@refs/heads/odd",
    "KILN_IMAGE_REGISTRY": "127.0.0.1:1/odd",
    "KILN_RELEASE": "an odd/name\n",
    "KILN_SIGN": "keyless",
    "KILN_SIGNING_KEY_PASSWORD": "odd",
    "KILN_SIGNING_KEY_PEM": "odd",
    "LC_ALL": "odd",
    "MAKEFLAGS": "--odd",
    "PYTHONWARNINGS": "error",
    "SIGSTORE_ID_TOKEN": "odd",
    "SOURCE_DATE_EPOCH": "odd",
    "TERM": "odd",
    "TZ": "Odd/Odd",
}  # fmt: skip


def test_what_is_seen() -> None:
    """Nothing of the caller's but what is named; a unit test sees least."""
    named = {name for names in isolation.ALWAYS.values() for name in names}
    seen = {name for name in os.environ if not name.startswith("PYTEST_")}
    assert seen - named == {"HOME", "LANG", "DOCKER_HOST"}
    assert os.environ["DOCKER_HOST"].startswith("unix:///nonexistent")


def test_the_home_is_no_ones() -> None:
    assert Path.home().name.startswith("kiln-tests-home-")
    assert default_key_path().is_relative_to(Path.home())
    assert Store.default_root().is_relative_to(Path.home())


@pytest.fixture
def odd_machine(tmp_path: Path, stranger: SigningKey) -> Path:
    """Somebody's home, and a folder that one works in, ``work``."""
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home / ".config" / "tflite-kiln", home / ".docker", home / ".cache", work):
        folder.mkdir(parents=True)
    shutil.copy(stranger.private_path, home / ".config" / "tflite-kiln" / "signing-key.pem")
    (home / ".config" / "tflite-kiln" / "trust.toml").write_text("odd")
    (home / ".cache" / "tflite-kiln").write_text("a file in the place of the store")
    (home / ".docker" / "config.json").write_text("odd")
    (home / ".gitconfig").write_text("[odd")
    for folder in (work / "dist", work / "dist" / "odd"):
        folder.mkdir()
        (folder / "conversion.json").write_text("odd")
    return tmp_path


@pytest.mark.parametrize("key", ["somebody's", "junk", "unreadable"])
def test_on_an_odd_machine(odd_machine: Path, key: str) -> None:
    planted = odd_machine / "home" / ".config" / "tflite-kiln" / "signing-key.pem"
    run = RUN
    if key == "junk":
        planted.write_bytes(b"-----BEGIN PRIVATE KEY-----\n\xff\n")
        planted.chmod(0o644)
    elif key == "unreadable":
        planted.unlink()
        planted.mkdir(mode=0)  # that not even root can read as a file
    if key != "somebody's":
        run = tuple(name for name in RUN if "::" in name or name == "signing/test_keys.py")
    settings = isolation.given(isolation.ALWAYS) | {"HOME": str(odd_machine / "home")}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-c", ROOT / "pyproject.toml"]
    done = subprocess.run(
        [
            *("sh", "-c", "trap '' INT; exec \"$@\"", "in-the-background"),
            *(*command, "-p", "no:cacheprovider"),
            *(f"{UNIT}/{name}" for name in run),
        ],
        env={**settings, **ODD},
        cwd=odd_machine / "work",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout
