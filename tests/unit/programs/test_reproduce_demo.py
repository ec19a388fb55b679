"""``make reproduce-demo``'s own steps: kiln is really off the network."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from patience import PATIENCE

from proofs import reproduce_demo as demo

LISTEN = """\
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5) as connection:
    print(connection.recv(2).decode())
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that says "hi" to whoever reaches it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def reach(prefix: list[str], port: int) -> subprocess.CompletedProcess[str]:
    """Try to reach it, started the way kiln is started."""
    return subprocess.run(
        [*prefix, str(port)], capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_a_plain_process_reaches_the_port(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
        pass


def test_no_network_in_a_namespace(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    command = demo.without_network()
    if command[0] != "unshare":
        pytest.skip("unshare is not permitted here")
    assert "unshare" in capsys.readouterr().out
    ended = reach([*command[: -len(demo.KILN)], sys.executable, "-c", LISTEN], port)
    assert ended.returncode != 0
    assert "unreachable" in ended.stderr or "refused" in ended.stderr
    assert subprocess.run([*command, "--version"], check=True, capture_output=True).stdout


def test_no_network_without_a_namespace(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    *python, code = demo.without_network()
    assert subprocess.run([*python, code, "--version"], check=True, capture_output=True).stdout
    ended = reach([*python, code.replace("main()", LISTEN)], port)
    assert ended.returncode != 0
    assert "Permission" in ended.stderr


def test_an_engine_over_the_network_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert demo.without_network() == list(demo.KILN)
    assert "stays on the network" in capsys.readouterr().out


def test_a_failing_command_ends_it() -> None:
    with pytest.raises(demo.FailedError) as caught:
        demo.run([sys.executable, "-c", "raise SystemExit(7)"])
    assert caught.value.code == 7
