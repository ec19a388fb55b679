"""What tests see of the machine: a home of their own, and an environment that is written here.

Nothing of whoever runs them comes in by accident: no configuration, cache or key, no engine, store
or signing setting. What is the caller's all the same is named below, each with its reason.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from kiln.core.errors import EngineUnavailableError
from kiln.core.store import Store
from kiln.running.addresses import candidates

#: What every test sees of the caller's environment, by the reason.
ALWAYS: dict[str, tuple[str, ...]] = {
    "programs: git, make, a shell": ("PATH",),
    "a Python that was built with a shared library finds it there": ("LD_LIBRARY_PATH",),
    "where there is room for temporary files": ("TMPDIR",),
    "pytest and Hypothesis cut no report short and leave nothing to chance there": ("CI",),
}

#: What integration tests see besides: what they cannot do without, and what a caller asks of them.
INTEGRATION: dict[str, tuple[str, ...]] = {
    "which engine, and how to talk to it": (
        "DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "XDG_RUNTIME_DIR",
    ),
    "images that are built already, and packages for those that are not": ("KILN_STORE",),
    "results that are kept from session to session": ("KILN_TEST_STORE",),
    "where Debian's packages come from": (
        "KILN_DEBIAN_MIRROR", "KILN_DEBIAN_SECURITY_MIRROR", "KILN_DEBIAN_SNAPSHOT",
    ),
    "where Python's packages come from": ("KILN_PYPI_INDEX", "PIP_INDEX_URL", "PIP_CONFIG_FILE"),
    "the way to the network": (
        "http_proxy", "https_proxy", "all_proxy", "no_proxy",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    ),
    "whose certificates are trusted on that way": (
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT",
    ),
    "failures in the place of skipped tests": (
        "KILN_REQUIRE_ENGINE", "KILN_REQUIRE_BROWSER", "KILN_REQUIRE_TOOLS",
    ),
    "golden files written anew": ("KILN_UPDATE_FIXTURES",),
}  # fmt: skip

#: pytest's own variables, and those of the plugin that spreads tests over processes.
_PYTEST = "PYTEST_"

#: An address where no engine listens: a unit test that wants one brings its own.
_NO_ENGINE = "unix:///nonexistent/docker.sock"


class Isolation:
    """The caller's environment as it is now, and what tests see in its place.

    Args:
        home: a folder for ``HOME``.
    """

    def __init__(self, home: Path) -> None:
        common = given(ALWAYS)
        common |= {"HOME": str(home), "LANG": "C.UTF-8"}
        caller = given(INTEGRATION)
        caller["KILN_STORE"] = str(Store.default_root())
        if pip := _pip_configuration():
            caller.setdefault("PIP_CONFIG_FILE", str(pip))
        if engine := _engine_at_home():
            caller.setdefault("DOCKER_HOST", engine)
        self._environments = {False: {**common, "DOCKER_HOST": _NO_ENGINE}, True: common | caller}
        self._entered: bool | None = None

    def enter(self, *, integration: bool) -> None:
        """Let this process and those that it starts see what such tests see.

        Only a change of kind changes anything: in between, fixtures may set variables.
        """
        if integration == self._entered:
            return
        self._entered = integration
        for name in [name for name in os.environ if not name.startswith(_PYTEST)]:
            del os.environ[name]
        os.environ.update(self._environments[integration])
        time.tzset()


def new_home() -> Path:
    """An empty home folder; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="kiln-tests-home-"))


def given(names: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Those variables that the caller has set."""
    given = (name for some in names.values() for name in some if name in os.environ)
    return {name: os.environ[name] for name in given}


def _pip_configuration() -> Path | None:
    """The caller's settings of pip, which lie below the caller's home."""
    configuration = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    places = Path(configuration) / "pip" / "pip.conf", Path.home() / ".pip" / "pip.conf"
    return next((path for path in places if path.is_file()), None)


def _engine_at_home() -> str | None:
    """The address of an engine that listens below the caller's home, as Docker Desktop's does.

    Or that of the Docker context that the caller has chosen, which lies there, too.
    """
    with contextlib.suppress(EngineUnavailableError):
        first = candidates()[0]
        if first.context and first.tls is None:
            return first.url
    socket = Path.home() / ".docker" / "run" / "docker.sock"
    if socket.exists() and not Path("/var/run/docker.sock").exists():
        return f"unix://{socket}"
    return None
