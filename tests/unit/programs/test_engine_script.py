"""scripts/setup/engine.sh on a machine without a running engine.

``/run`` is an empty one of a mount namespace's own, so no engine of this machine answers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT, SCRIPTS

APART = ("unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount -t tmpfs tmpfs /run && exec "$@"', "sh")  # fmt: skip

#: Answers at the socket that it is told, as far as finding an engine goes.
PODMAN = """#!{python}
import os, socketserver, sys
from http.server import BaseHTTPRequestHandler
assert sys.argv[1:4] == ["system", "service", "--time=0"], sys.argv
open({pid!r}, "w").write(str(os.getpid()))

class Handler(BaseHTTPRequestHandler):
    def address_string(self):
        return "here"
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"ApiVersion": "1.41"}}')

socketserver.ThreadingUnixStreamServer(sys.argv[4].removeprefix("unix://"), Handler).serve_forever()
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A folder with a copy of the script, an environment, and ``bin`` for programs."""
    (tmp_path / "scripts" / "setup").mkdir(parents=True)
    shutil.copy(SCRIPTS / "setup" / "engine.sh", tmp_path / "scripts" / "setup")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "bin").mkdir()
    for name in ("sh", "dirname", "id", "mkdir", "mktemp", "setsid", "sleep", "mount"):
        found = shutil.which(name)
        assert found is not None, name
        (tmp_path / "bin" / name).symlink_to(found)
    if subprocess.run([*APART, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    yield tmp_path
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "podman.pid").read_text()), signal.SIGTERM)


def run(machine: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("unshare") or "unshare", *APART[1:],
         "sh", str(machine / "scripts" / "setup" / "engine.sh")],
        env={
            "PATH": str(machine / "bin"),
            "PYTHONPATH": str(ROOT / "scripts"),
            "HOME": str(machine),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # fmt: skip


def test_an_installed_podman_is_started_and_docker_is_not_installed(machine: Path) -> None:
    podman = machine / "bin" / "podman"
    podman.write_text(PODMAN.format(python=sys.executable, pid=str(machine / "podman.pid")))
    podman.chmod(0o755)
    ended = run(machine)
    assert ended.returncode == 0, ended.stderr
    assert "Podman is installed, so Docker is not; starting /run/podman/podman.sock" in ended.stdout
    assert "docker.io" not in ended.stdout
    # The socket went with the namespace; the program that listened is what was started.
    assert (machine / "podman.pid").exists()


def test_a_chosen_context_is_named(machine: Path) -> None:
    ended = run(machine, DOCKER_CONTEXT="far")
    assert ended.returncode == 20
    assert "Docker's context that is chosen" in ended.stderr
    assert "docker context use default" in ended.stderr
    assert not (machine / "podman.pid").exists()
