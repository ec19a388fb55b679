from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests
from dead_owner import dead_tag
from docker.constants import DEFAULT_TIMEOUT_SECONDS
from toy_engine import ToyEngine, serve

from kiln.core.errors import CancelledError, EngineFailedError, EngineUnavailableError
from kiln.core.lease import tagged_name
from kiln.running import engine as module
from kiln.running.engine import OWNER_LABEL, Engine, Limits, candidate_sockets


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyEngine]:
    with serve() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine


# --- finding one -------------------------------------------------------------------------------


def test_docker_host_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert candidate_sockets() == ["tcp://127.0.0.1:1"]


def test_otherwise_docker_comes_before_podman(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert candidate_sockets() == [
        "unix:///var/run/docker.sock",
        "unix:///run/user/7/docker.sock",
        f"unix://{tmp_path}/.docker/run/docker.sock",
        "unix:///run/user/7/podman/podman.sock",
        "unix:///run/podman/podman.sock",
    ]
    monkeypatch.setenv("DOCKER_HOST", "")
    assert len(candidate_sockets()) == 5


def refused(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> EngineUnavailableError:
    monkeypatch.setattr(module, "candidate_sockets", lambda: list(addresses))
    with pytest.raises(EngineUnavailableError) as caught:
        Engine.find()
    return caught.value


def test_every_address_tried_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deaf = tmp_path / "deaf.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(deaf))  # and nobody listens
        error = refused(
            monkeypatch, f"unix://{tmp_path}/none.sock", f"unix://{deaf}", "tcp://127.0.0.1:9"
        )
    assert error.message == (
        f"No container engine answers. Tried: unix://{tmp_path}/none.sock (no such socket), "
        f"unix://{deaf} (no answer), tcp://127.0.0.1:9 (no answer)."
    )
    for advice in ("systemctl start docker", "`docker` group", "DOCKER_HOST", "make engine"):
        assert advice in error.remedy
    assert error.exit_code == 20


@pytest.mark.parametrize("address", ["nonsense://x", "ssh://nobody@127.0.0.1:9", "tcp:"])
def test_a_wrong_address_is_no_traceback(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert address in refused(monkeypatch, address).message


def test_permission_denied_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As an ordinary user outside the docker group meets it; root never does, hence the patch."""

    def denied(*args: Any, **kwargs: Any) -> None:
        raise docker.errors.DockerException(
            "Error while fetching server API version: ('Connection aborted.', "
            "PermissionError(13, 'Permission denied'))"
        )

    (tmp_path / "docker.sock").touch()
    monkeypatch.setattr(docker, "from_env", denied)
    error = refused(monkeypatch, f"unix://{tmp_path}/docker.sock")
    assert "docker.sock (permission denied)" in error.message


def test_an_engine_that_takes_calls_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, toy: ToyEngine
) -> None:
    monkeypatch.setattr(module, "_PING_TIMEOUT", 0.3)
    toy.silent.set()
    start = time.monotonic()
    with pytest.raises(EngineUnavailableError, match="no answer"):
        Engine.find()
    assert time.monotonic() - start < DEFAULT_TIMEOUT_SECONDS, "that is what the SDK waits"


def test_the_first_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch, toy: ToyEngine) -> None:
    addresses = ["unix:///nonexistent", toy.address, "tcp://127.0.0.1:9"]
    monkeypatch.setattr(module, "candidate_sockets", lambda: addresses)
    found = Engine.find()
    assert found.address == toy.address
    assert found.client.api.timeout == 600  # an image takes its time to load


@pytest.mark.parametrize(
    ("said", "rootless"),
    [
        ({"SecurityOptions": ["name=seccomp,profile=default"]}, False),
        ({"SecurityOptions": None}, False),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, True),  # Docker
        ({"SecurityOptions": ["name=seccomp,profile=default"], "Rootless": True}, True),  # Podman 4
        ({"SecurityOptions": ["name=seccomp,profile=default"], "Rootless": False}, False),
    ],
)
def test_rootless_by_any_of_its_names(toy: ToyEngine, said: dict[str, Any], rootless: bool) -> None:
    toy.info = said
    assert Engine.find().rootless is rootless


# --- failures ----------------------------------------------------------------------------------


def test_what_the_engine_says_is_passed_on(toy: ToyEngine) -> None:
    engine = Engine.find()
    toy.fail = 500
    with pytest.raises(EngineFailedError, match=r"failed while listing containers: out of order\."):
        engine.sweep()


@pytest.mark.parametrize(
    "error", [requests.exceptions.ConnectionError(), ConnectionResetError(), BrokenPipeError()]
)
def test_a_lost_connection_is_an_engine_that_went_away(toy: ToyEngine, error: Exception) -> None:
    engine = Engine.find()
    with pytest.raises(EngineFailedError) as caught, engine.failures("counting sheep"):
        raise error
    assert caught.value.message == f"The engine at {toy.address} went away while counting sheep."
    assert "finished stages are kept" in caught.value.remedy


def test_other_errors_pass_unchanged(toy: ToyEngine) -> None:
    with pytest.raises(ZeroDivisionError), Engine.find().failures("dividing"):
        raise ZeroDivisionError


# --- leftovers ---------------------------------------------------------------------------------


def test_sweep_takes_what_dead_processes_left_and_nothing_else(toy: ToyEngine) -> None:
    other_boot = "12-34-ffffffff.0123abcd"
    toy.container("dead", {OWNER_LABEL: dead_tag()}, "running")
    toy.container("ours", {OWNER_LABEL: tagged_name()}, "running")
    toy.container("foreign, over", {OWNER_LABEL: other_boot})
    toy.container("foreign, running", {OWNER_LABEL: other_boot}, "running")
    toy.container("odd", {OWNER_LABEL: "no tag at all"}, "running")
    toy.container("not kiln's", {"other": "label"})
    engine = Engine.find()
    assert engine.sweep() == 1
    assert toy.removed == ["dead"]
    assert engine.sweep() == 0
    assert engine.sweep(foreign=True) == 1
    assert set(toy.containers) == {"ours", "foreign, running", "odd", "not kiln's"}


# --- stopping ----------------------------------------------------------------------------------


class Created:
    """A container that was created; its removal is written down."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def remove(self, **how: Any) -> None:
        self.calls.append("remove")

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


class Client:
    """Hands out :class:`Created` containers and keeps how they were asked for."""

    def __init__(self) -> None:
        self.containers = self
        self.made: list[tuple[Created, dict[str, Any]]] = []

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": []}

    def version(self) -> dict[str, Any]:
        return {"Components": [{"Name": "Engine"}]}

    def create(self, image: str, command: list[str], **how: Any) -> Created:
        self.made.append((Created(), how))
        return self.made[-1][0]


def test_after_stop_all_nothing_is_started(tmp_path: Path) -> None:
    client = Client()
    engine = Engine("toy", client)  # type: ignore[arg-type]
    engine.stop_all()
    with pytest.raises(CancelledError):
        engine.run(
            "image",
            ["true"],
            mounts={tmp_path: ("/in", "ro")},
            environment={"TZ": "Mars", "A": "b"},
            limits=Limits(memory=1 << 20, pids=5, tmp=7),
            on_stdout=lambda chunk: None,
            user="1000:1000",
        )
    [(container, how)] = client.made
    assert container.calls == ["remove"]  # never attached to, never started
    # What was asked for is sealed off.
    assert how["network_mode"] == "none"
    assert how["read_only"] is True
    assert how["stop_signal"] == "SIGKILL"
    assert how["cap_drop"] == ["ALL"]
    assert how["security_opt"] == ["no-new-privileges"]
    assert how["mem_limit"] == how["memswap_limit"] == 1 << 20
    assert how["ulimits"] == [{"Name": "fsize", "Soft": 8 << 30, "Hard": 8 << 30}]
    assert how["log_config"]["Config"] == {"max-size": "4m", "max-file": "1"}
    assert how["volumes"] == {str(tmp_path): {"bind": "/in", "mode": "ro"}}
    assert how["environment"]["PYTHONHASHSEED"] == "0"
