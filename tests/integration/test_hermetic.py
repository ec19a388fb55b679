"""What a stage container is allowed: nothing but its inputs, its outputs and its memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from support import SAMPLE, Kiln, Stages, Wanted, containers_of, running

from kiln.core.lease import owner_tag
from kiln.images.lock import Locked
from kiln.running.engine import OWNER_LABEL, Engine


@pytest.fixture(scope="module")
def seen(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the probe stage reports from inside."""
    folder = tmp_path_factory.mktemp("probe")
    canary = folder / "canary"
    # Its content is new each time, so that the probe runs and is not looked up.
    canary.write_text(f"canary {os.urandom(8).hex()}")
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        hosts = ["127.0.0.1", "172.17.0.1"]  # the latter: Docker's bridge, as a rule
        with contextlib.suppress(OSError):
            hosts.append(socket.gethostbyname(socket.gethostname()))
        addresses = [[host, port] for host in hosts]
        socket.create_connection(("127.0.0.1", port), timeout=3).close()  # it does listen
        files = [str(canary), __file__, str(stages.store.root), "/var/run/docker.sock"]
        assert all(Path(path).exists() for path in files[:3])
        params = {"host_files": files, "addresses": addresses}
        result = stages.run(Wanted("probe", "probe", params, {"canary": canary}))["probe"]
    return {**result.facts, "canary": canary}


def test_no_network(seen: dict[str, Any]) -> None:
    assert seen["interfaces"] == ["lo"]
    assert seen["connected"] == []
    assert seen["resolved"] is False


def test_no_privileges(seen: dict[str, Any]) -> None:
    assert seen["uid"] != 0
    assert seen["gid"] != 0
    assert seen["capabilities"] == {"CapEff": 0, "CapPrm": 0, "CapBnd": 0}
    assert seen["no_new_privs"] == 1


def test_writes_only_its_output_and_tmp(seen: dict[str, Any]) -> None:
    assert set(seen["writable"]) - {"/dev"} == {"/out", "/tmp"}
    assert seen["input_changed"] is False
    assert seen["canary"].read_text().startswith("canary ")


def test_host_is_invisible(seen: dict[str, Any]) -> None:
    assert seen["seen"] == []
    assert len(seen["processes"]) <= 3  # init, the runner, nothing of the host's
    assert seen["hostname"] == "kiln"
    ours = {"/kiln/stages", "/in", "/out", "/tmp"}
    engines = {"/", "/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    engines |= {"/sbin/docker-init", "/run/.containerenv", "/run/secrets", "/dev/init"}
    others = {
        mount
        for mount in seen["mounts"]
        if mount not in ours | engines and not mount.startswith(("/proc/", "/sys/", "/dev/"))
    }
    assert others == set()
    assert ours <= set(seen["mounts"])


def test_fixed_environment(seen: dict[str, Any]) -> None:
    environment = seen["environment"]
    assert environment["TZ"] == "UTC"
    assert environment["LC_ALL"] == "C.UTF-8"
    assert environment["PYTHONHASHSEED"] == "0"
    assert environment["HOME"] == "/tmp"
    assert str(Path.home()) not in environment.values()


def test_what_the_engine_was_told(fresh: Kiln, engine: Engine, odapi: Locked) -> None:
    """A real build's container, seen through the API; SIGTERM then ends both."""
    with running(fresh, "build", SAMPLE, "--variant", "float32") as build:
        build.wait_for(event="stage", id="checkpoint", state="started")
        (container,) = containers_of(engine, build.process.pid)
        about = container.attrs
        build.process.send_signal(signal.SIGTERM)
        ended = build.end()
        wait_until(lambda: not containers_of(engine, ended.pid))
    host, config = about["HostConfig"], about["Config"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert host["Privileged"] is False
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert host["Memory"] > 0
    assert host["MemorySwap"] == host["Memory"]
    assert 0 < host["PidsLimit"] <= 4096
    assert not host["PortBindings"]
    assert not host["Devices"]
    assert config["User"].split(":")[0] not in ("", "0", "root")
    assert config["Hostname"] == "kiln"
    assert config["Labels"][OWNER_LABEL].startswith(f"{ended.pid}-")
    # The same boot and pid namespace as ours: that is how leftovers are told.
    assert config["Labels"][OWNER_LABEL].split(".")[0].split("-")[2] == owner_tag().split("-")[2]
    mounts = {mount["Destination"]: mount["RW"] for mount in about["Mounts"]}
    assert mounts == {"/kiln/stages": False, "/in": False, "/out": True}
    assert all(Path(mount["Source"]).is_relative_to(fresh.store) for mount in about["Mounts"])
    assert about["Image"] == engine.client.images.get(odapi.tag).id
    assert ended.code == 130
    assert fresh.leftovers() == []
    assert fresh.published() == []
