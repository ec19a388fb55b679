"""How a sealed image comes into an engine other than by being built: a file, a registry."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests
from patience import wait_until
from places import ROOT

from kiln.core.errors import ImageMismatchError
from kiln.core.store import Store
from kiln.images import archived, registry, transfer
from kiln.images.builder import Images
from kiln.images.listing import listed
from kiln.images.lock import Locked, locked_image
from kiln.running.engine import Engine

DOCKERFILE = """\
FROM scratch
ARG OWNER=
LABEL org.tflite-kiln.owner="${OWNER}"
COPY hello /opt/hello
ENV TZ=UTC
CMD ["/bin/true"]
"""


@dataclass
class Tiny:
    """An image of a few bytes that nobody else uses, built and locked here."""

    name: str
    images: Images
    engine: Engine
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def locked(self) -> Locked:
        return locked_image(self.images.docker_dir, self.name)

    @property
    def phases(self) -> list[str]:
        return [event["phase"] for event in self.events if event["event"] == "image"]

    @property
    def notes(self) -> list[str]:
        return [event["message"] for event in self.events if event["event"] == "note"]

    def drop(self) -> None:
        """Out of the engine."""
        transfer.discard(self.engine, self.locked.tag)
        assert not self.images.present(self.locked)
        self.events.clear()

    def wanted(self) -> None:
        """Ensured, and there."""
        assert self.images.ensure(self.name) == self.locked
        assert self.images.present(self.locked)


@pytest.fixture
def tiny(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    monkeypatch.delenv("KILN_IMAGE_REGISTRY", raising=False)
    name = f"tiny-{uuid.uuid4().hex[:12]}"
    docker_dir = tmp_path / "docker"
    (docker_dir / name).mkdir(parents=True)
    (docker_dir / "images.toml").write_text(f'[{name}]\nfiles = ["hello"]\n')
    (docker_dir / "hello").write_text(name)
    (docker_dir / name / "Dockerfile").write_text(DOCKERFILE)
    events: list[dict[str, Any]] = []

    def listen(event: str, **fields: Any) -> None:
        events.append({"event": event, **fields})

    images = Images(docker_dir, lambda: engine, Store(tmp_path / "store"), listen)
    images.build(name, update_lock=True)
    made = Tiny(name, images, engine, events)
    yield made
    transfer.discard(engine, made.locked.tag)


def test_saved_dropped_and_loaded(tiny: Tiny, tmp_path: Path) -> None:
    one, two = tmp_path / "one.tar", tmp_path / "two.tar"
    digest = tiny.images.save(tiny.name, one)
    tiny.drop()
    assert tiny.images.load(one) == tiny.locked
    assert tiny.images.present(tiny.locked)
    assert tiny.images.save(tiny.name, two) == digest  # of what was loaded
    assert one.read_bytes() == two.read_bytes()
    damaged = bytearray(one.read_bytes())
    damaged[1000] ^= 1
    two.write_bytes(damaged)
    tiny.drop()
    with pytest.raises(ImageMismatchError):
        tiny.images.load(two)
    assert not tiny.images.present(tiny.locked)


def test_docker_load_takes_it(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    tiny.images.save(tiny.name, path)
    tiny.drop()
    with path.open("rb") as file:
        tiny.engine.client.images.load(file)
    assert tiny.images.present(tiny.locked)


def test_an_archive_in_the_store_comes_before_building(tiny: Tiny, tmp_path: Path) -> None:
    path, store = tmp_path / "image.tar", tiny.images.store
    tiny.images.save(tiny.name, path)
    archived.remember(store, tiny.locked, store.add_file(path))
    tiny.drop()
    tiny.wanted()
    assert tiny.phases == ["load", "done"]


def test_a_file_comes_before_all_else(tiny: Tiny, tmp_path: Path) -> None:
    path, false = tmp_path / "image.tar", tmp_path / "false.tar"
    tiny.images.save(tiny.name, path)
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    false.write_bytes(damaged)
    (tmp_path / "other.tar").write_bytes(b"of another size: not even read")
    tiny.images.archives = [tmp_path / "other.tar", false, path]
    tiny.drop()
    tiny.wanted()
    assert tiny.phases == ["load", "load", "done"]  # the false one is told, and the engine spared
    assert len(tiny.notes) == 1 and f"{false} is not the archive" in tiny.notes[0]


def test_a_false_archive_in_the_store_is_told_and_not_used(tiny: Tiny, tmp_path: Path) -> None:
    path, store = tmp_path / "image.tar", tiny.images.store
    tiny.images.save(tiny.name, path)
    whole = path.read_bytes()
    false = whole.replace(tiny.name.encode(), b"x" * len(tiny.name), 1)
    assert false != whole
    archived.remember(store, tiny.locked, store.add_bytes(false))
    tiny.drop()
    tiny.wanted()
    assert "build" in tiny.phases
    assert len(tiny.notes) == 1 and "It is not used." in tiny.notes[0]


# -- a registry ---------------------------------------------------------------------------------


CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real registry on this machine, named to kiln; its address."""
    unpacked = ROOT / ".tools" / "docker-registry"
    program = str(unpacked) if unpacked.exists() else shutil.which("docker-registry")
    if program is None:
        reason = "docker-registry is not in .tools (make test-tools puts it there)"
        if os.environ.get("KILN_REQUIRE_TOOLS") == "1":
            pytest.fail(f"KILN_REQUIRE_TOOLS is set: {reason}", pytrace=False)
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(root=tmp_path / "registry", port=port))
    process = subprocess.Popen(
        [program, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/v2/", timeout=5).ok
        return False

    try:
        wait_until(answers)
        monkeypatch.setenv("KILN_IMAGE_REGISTRY", f"127.0.0.1:{port}/kiln/")
        yield f"127.0.0.1:{port}/kiln"
    finally:
        process.kill()
        process.wait()


def names_in(engine: Engine, prefix: str) -> list[str]:
    return [name for image in listed(engine) for name in image.names if name.startswith(prefix)]


def test_pushed_and_fetched(tiny: Tiny, server: str) -> None:
    reference = registry.push(tiny.engine, tiny.locked, server)
    assert reference == f"{server}/{tiny.locked.tag.removeprefix('tflite-kiln/')}"
    tiny.drop()
    tiny.wanted()
    assert tiny.phases == ["pull", "done"]
    assert tiny.notes == []
    assert names_in(tiny.engine, server) == []


def push_instead(tiny: Tiny, server: str, dockerfile: str) -> None:
    """Another image into the registry under the locked one's name."""
    repository, tag = f"{server}/{tiny.name}", tiny.locked.tag.rpartition(":")[2]
    folder = tiny.images.docker_dir.parent / "other"
    folder.mkdir()
    (folder / "hello").write_text("other")
    (folder / "Dockerfile").write_text(dockerfile)
    reference = f"{repository}:{tag}"
    tiny.engine.client.images.build(path=str(folder), tag=reference, rm=True)
    pushed = tiny.engine.client.api.push(repository, tag=tag, stream=True, decode=True)
    assert not [message for message in pushed if "error" in message]
    transfer.discard(tiny.engine, reference)


@pytest.mark.parametrize(
    "dockerfile",
    ["FROM scratch\nCOPY hello /opt/hello\n", "FROM {tag}\nENV EVIL=1\n"],
    ids=["other files", "other settings"],
)
def test_another_image_under_the_name_is_not_taken(
    tiny: Tiny, server: str, dockerfile: str
) -> None:
    push_instead(tiny, server, dockerfile.format(tag=tiny.locked.tag))
    tiny.drop()
    tiny.wanted()
    assert "pull" in tiny.phases and "build" in tiny.phases
    assert any("This registry is not used." in note for note in tiny.notes)
    assert names_in(tiny.engine, server) == []
    settings = tiny.engine.client.api.inspect_image(tiny.locked.tag)["Config"]
    assert "TZ=UTC" in settings["Env"] and "EVIL=1" not in settings["Env"]


def test_the_same_files_in_other_wrapping_are_sealed_again(tiny: Tiny, server: str) -> None:
    """What an engine that shows no configuration digest looks like: another id, the same rest."""
    more = 'ENTRYPOINT ["/bin/evil"]\nCMD ["/bin/true"]\n'
    push_instead(tiny, server, f"FROM {tiny.locked.tag}\n{more}")
    tiny.drop()
    tiny.wanted()
    assert tiny.phases == ["pull", "done"]
    assert tiny.engine.client.api.inspect_image(tiny.locked.tag)["Id"] == tiny.locked.identity
    assert names_in(tiny.engine, server) == []


def test_a_registry_without_it(tiny: Tiny, server: str) -> None:
    tiny.drop()
    tiny.wanted()
    assert tiny.phases[0] == "pull" and "build" in tiny.phases
    assert any("registry is not used" in note for note in tiny.notes)


def test_no_registry_there(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_IMAGE_REGISTRY", "127.0.0.1:9/kiln")
    tiny.drop()
    tiny.wanted()
    assert "build" in tiny.phases
    assert any("127.0.0.1:9/kiln" in note for note in tiny.notes)
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9/kiln") as caught:
        registry.push(tiny.engine, tiny.locked, "127.0.0.1:9/kiln")
    assert not isinstance(caught.value, docker.errors.DockerException)
