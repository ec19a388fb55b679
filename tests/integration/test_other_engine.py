"""A short form of ``make engines``: the least of kiln on a Podman beside the engine at hand."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
from places import ROOT
from support import Kiln

from kiln.core.errors import CancelledError, ImageBuildError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.listing import listed
from kiln.images.lock import locked_image
from kiln.running.engine import Engine
from kiln.running.limits import Limits
from kiln.running.stage_user import owner_outside, stage_user
from proofs.engines import machine

#: Podman asks a container to end, and kills it ten seconds later.
PODMANS_PATIENCE = 10.0

FAILING = """\
FROM scratch
ARG OWNER=
LABEL org.tflite-kiln.owner="${OWNER}"
COPY hello /opt/hello
RUN ["/there/is/no/such/program"]
"""


@dataclass
class Podman:
    """A Podman that holds the base image, and kiln as a command on it."""

    kiln: Kiln
    engine: Engine
    base: str

    def holds(self) -> list[str]:
        """All images, intermediate ones too."""
        return sorted(image.id for image in listed(self.engine, intermediate=True))


@pytest.fixture(scope="module")
def podman(session_kiln: Kiln, area: Path) -> Iterator[Podman]:
    """Podman as root, with data of its own, stopped at the end."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a second engine")
    missing = [name for name in ("podman", "runc") if not shutil.which(name)]
    if missing:
        reason = f"{' and '.join(missing)} not installed (make test-tools installs it)"
        if os.environ.get("KILN_REQUIRE_TOOLS") == "1":
            pytest.fail(f"KILN_REQUIRE_TOOLS is set: {reason}", pytrace=False)
        pytest.skip(reason)
    archive = area / "base.tar"
    session_kiln("images", "save", "base", "-o", archive).ok()
    entry = machine.Engine("podman", "this machine", "", "podman", ())
    with (
        tempfile.TemporaryDirectory(prefix="kiln-podman-") as place,
        machine.running(entry, None, Path(place) / "e") as address,
    ):
        kiln = session_kiln.but(engine=address)
        kiln("images", "load", archive).ok()
        engine = Engine(address, docker.DockerClient(base_url=address, timeout=120))
        yield Podman(kiln, engine, locked_image(ROOT / "docker", "base").tag)


def test_the_doctor_is_content(podman: Podman) -> None:
    said = podman.kiln("doctor").ok().out
    assert "Podman" in said and "PROBLEM" not in said


def test_the_image_is_the_locked_one(podman: Podman) -> None:
    states = {e["image"]: e["state"] for e in podman.kiln("images", "list", "--json").ok().events}
    assert states["base"] == "present"
    assert {state for name, state in states.items() if name != "base"} == {"not built"}


def test_a_stage_reads_its_input_and_writes_its_output(podman: Podman, area: Path) -> None:
    engine = podman.engine
    folder = Path(tempfile.mkdtemp(dir=area))
    (folder / "in").mkdir()
    (folder / "in" / "word").write_text("hello")
    (folder / "out").mkdir()
    for path in (folder, folder / "in"):
        path.chmod(0o755)
    owner = owner_outside(rootless=engine.rootless)
    os.chown(folder / "out", owner, owner)
    user = "{}:{}".format(*stage_user(rootless=engine.rootless))
    said: list[bytes] = []
    code = "print(open('/out/word', 'w').write(open('/in/word').read()))"
    outcome = engine.run(
        podman.base,
        ["/usr/bin/python3", "-B", "-c", code],
        mounts={folder / "in": ("/in", "ro"), folder / "out": ("/out", "rw")},
        environment={},
        limits=Limits(),
        on_stdout=said.append,
        user=user,
    )
    assert (outcome.exit_code, b"".join(said)) == (0, b"5\n"), outcome.log
    assert (folder / "out" / "word").read_text() == "hello"
    assert (folder / "out" / "word").stat().st_uid == owner


def test_a_stopped_command_does_not_wait(podman: Podman) -> None:
    engine = Engine(podman.engine.address, podman.engine.client)
    begun, ended = threading.Event(), threading.Event()
    found: list[BaseException] = []

    def run() -> None:
        try:
            engine.run(
                podman.base,
                ["/usr/bin/python3", "-c", "print(1, flush=True); import time; time.sleep(600)"],
                mounts={},
                environment={},
                limits=Limits(),
                on_stdout=lambda chunk: begun.set(),
                user="1000:1000",
            )
        except CancelledError as error:
            found.append(error)
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert begun.wait(60)
    start = time.monotonic()
    engine.stop_all()
    assert ended.wait(60) and found
    assert time.monotonic() - start < PODMANS_PATIENCE / 2


def test_a_failed_image_build_tells_its_steps_and_leaves_nothing(
    podman: Podman, tmp_path: Path
) -> None:
    docker_dir = tmp_path / "docker"
    (docker_dir / "failing").mkdir(parents=True)
    (docker_dir / "images.toml").write_text('[failing]\nfiles = ["hello"]\n')
    (docker_dir / "hello").write_text("hello")
    (docker_dir / "failing" / "Dockerfile").write_text(FAILING)
    told: list[Any] = []

    def listen(event: str, **fields: Any) -> None:
        told.append(fields.get("detail"))

    images = Images(docker_dir, lambda: podman.engine, Store(tmp_path / "store"), listen)
    before = podman.holds()
    with pytest.raises(ImageBuildError, match="no/such/program"):
        images.build("failing", update_lock=True)
    assert podman.holds() == before
    assert any("COPY hello" in str(detail) for detail in told), told


def test_cleaned_up(podman: Podman) -> None:
    """The last: no image is left to work with."""
    said = podman.kiln("clean", "--images").ok().out
    assert "sealed images: 1 removed" in said
    assert podman.holds() == []
    assert podman.engine.client.containers.list(all=True) == []
