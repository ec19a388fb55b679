from __future__ import annotations

import importlib.util
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
from kiln.running.addresses import Address
from kiln.running.engine import OWNER_LABEL, Engine, Limits

BOTH = ("memory", "processes")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToyEngine]:
    with serve() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine


# --- finding one -------------------------------------------------------------------------------


def refused(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> EngineUnavailableError:
    monkeypatch.setattr(module, "candidates", lambda: [Address(url) for url in addresses])
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
    for advice in (
        "systemctl start docker",
        "systemctl --user start podman.socket",
        "`docker` group",
        "DOCKER_HOST",
        "make engine",
    ):
        assert advice in error.remedy
    assert error.exit_code == 20


@pytest.mark.skipif(importlib.util.find_spec("paramiko") is not None, reason="it is installed")
def test_ssh_says_what_is_missing_and_how_it_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(monkeypatch, "ssh://nobody@127.0.0.1:9")
    assert "paramiko, which is not installed" in error.message
    assert "-L $HOME/engine.sock:/var/run/docker.sock ssh://nobody@127.0.0.1:9" in error.remedy


@pytest.mark.parametrize("address", ["nonsense://x", "tcp:"])
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
    monkeypatch.setattr(module, "candidates", lambda: [Address(url) for url in addresses])
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


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "missing"),
    [
        ({"MemoryLimit": True, "PidsLimit": True, "CgroupVersion": "1"}, ()),
        ({}, ()),  # it does not say
        ({"MemoryLimit": False, "PidsLimit": True}, ("memory",)),
        # Rootless Docker without systemd.
        ({"MemoryLimit": False, "PidsLimit": False, "CgroupDriver": "none"}, BOTH),
        # Rootless Podman 4.3 with cgroups of version 1: it reports those of the machine.
        ({"MemoryLimit": True, "PidsLimit": True, "CgroupVersion": "1", "Rootless": True}, BOTH),
        ({"MemoryLimit": True, "PidsLimit": True, "CgroupVersion": "2", "Rootless": True}, ()),
    ],
)
def test_limits_that_have_no_effect_are_known(
    toy: ToyEngine, info: dict[str, Any], missing: tuple[str, ...]
) -> None:
    toy.info = info
    toy.components = ["Podman Engine"] if "Rootless" in info else ["Engine"]
    assert Engine.find().limits_missing == missing


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


def test_volumes_of_dead_processes_are_swept_with_their_containers(toy: ToyEngine) -> None:
    toy.container("keeper", {OWNER_LABEL: dead_tag()}, "running")
    toy.volume("dead", {OWNER_LABEL: dead_tag()})
    toy.volume("ours", {OWNER_LABEL: tagged_name()})
    toy.volume("foreign", {OWNER_LABEL: "12-34-ffffffff.0123abcd"})
    engine = Engine.find()
    assert engine.sweep() == 1
    assert toy.removed == ["keeper", "dead"]
    engine.sweep(foreign=True)
    assert set(toy.volumes) == {"ours"}


# --- stopping ----------------------------------------------------------------------------------


class Created:
    """A container that was created; its removal is written down."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def get_archive(self, path: str) -> Any:
        raise docker.errors.NotFound(path)  # nobody asks where there is no file to read back

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
    assert how["security_opt"] == ["no-new-privileges", "label=disable"]
    assert how["mem_limit"] == how["memswap_limit"] == 1 << 20
    assert how["ulimits"] == [{"Name": "fsize", "Soft": 8 << 30, "Hard": 8 << 30}]
    assert how["log_config"]["Config"] == {"max-size": "4m", "max-file": "1"}
    # A mount of a kind that Docker makes no missing source for.
    [mount] = how["mounts"]
    assert (mount["Type"], mount["Source"], mount["Target"]) == ("bind", str(tmp_path), "/in")
    assert mount["ReadOnly"] is True
    assert "volumes" not in how
    assert how["environment"]["PYTHONHASHSEED"] == "0"
