"""A stranger's release with a Dockerfile of its own, met by ``kiln reproduce`` on a real engine."""

from __future__ import annotations

import io
import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from patience import wait_until
from places import ROOT
from support import Ended, Kiln

from kiln.core.deterministic_tar import TarEntry, deterministic_tar
from kiln.core.digest import sha256_bytes
from kiln.core.store import Store
from kiln.images import transfer
from kiln.images.builder import Images
from kiln.images.definition import recipe_digest
from kiln.images.lock import Locked, read_lock
from kiln.project.closures import read_stage_code
from kiln.recipes.steps import Plan, StepList
from kiln.running.engine import Engine
from kiln.signing import dsse
from kiln.signing.keys import load_or_create_key
from kiln.signing.statement_names import (
    BUILD_TYPE,
    PROVENANCE_TYPE,
    STATEMENT_TYPE,
    provenance_path,
)
from kiln.statements.plan_data import plan_as_data

HONEST = """\
ARG BASE=tflite-kiln/base:local
FROM ${BASE}
ARG OWNER=
LABEL org.tflite-kiln.owner="${OWNER}"
COPY . /build/
RUN ["/usr/bin/python3", "-B", "/build/install.py", "environment"]
RUN ["/bin/rm", "-rf", "/build"]
"""

#: Looks around in the build container, and leaves what it saw in the image.
INSTALL = """\
import json, os, socket
seen = {"interfaces": sorted(name for _, name in socket.if_nameindex())}
try:
    socket.create_connection(("127.0.0.1", PORT), 5).close()
    seen["connected"] = True
except OSError:
    seen["connected"] = False
os.makedirs("/opt", exist_ok=True)
with open("/opt/seen.json", "w") as file:
    json.dump(seen, file, sort_keys=True)
os.symlink("python3", "/usr/bin/python")
"""
SEEN = json.dumps({"connected": False, "interfaces": ["lo"]}, sort_keys=True).encode()

#: A stage that releases what the installer saw.
STAGE = """\
import json, os, shutil
(stage,) = json.load(open("/in/request.json"))["stages"]
os.makedirs(f"/out/{stage['id']}/files")
shutil.copy("/opt/seen.json", f"/out/{stage['id']}/files/model.tflite")
with open(f"/out/{stage['id']}/result.json", "w") as file:
    json.dump({"facts": {}, "seconds": 0.1, "peak_rss": 1}, file)
said = {"event": "finished", "stage": stage["id"], "seconds": 0.1, "peak_rss": 1}
print(json.dumps(said), flush=True)
"""


@dataclass
class Site:
    """A server of this machine that counts."""

    port: int = 0
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(b"x")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()


@dataclass
class Stranger:
    """Somebody with an image of their own, on the base image that everybody has."""

    root: Path
    engine: Engine
    name: str = field(default_factory=lambda: f"tiny-{uuid.uuid4().hex[:12]}")

    def __post_init__(self) -> None:
        docker = self.docker
        (docker / self.name).mkdir(parents=True)
        shutil.copytree(ROOT / "docker" / "base", docker / "base")
        shutil.copy(ROOT / "docker" / "install.py", docker)
        shutil.copy(ROOT / "docker" / "images.lock", docker)
        (docker / "images.toml").write_text(
            '[base]\ndebian = "base/debian.lock"\nfiles = ["install.py"]\n'
            f'[{self.name}]\nparent = "base"\nfiles = ["{self.name}/install.py"]\n'
        )
        (docker / "stages").mkdir()
        (docker / "stages" / "__main__.py").write_text(STAGE)

    @property
    def docker(self) -> Path:
        return self.root / "docker"

    @property
    def locked(self) -> Locked:
        return read_lock(self.docker)[self.name]

    def define(self, dockerfile: str, install: str) -> None:
        (self.docker / self.name / "Dockerfile").write_text(dockerfile)
        (self.docker / self.name / "install.py").write_text(install)

    def build(self) -> None:
        """Build and lock the image on their machine; ours does not have it."""
        store = Store(Store.default_root())
        Images(self.docker, lambda: self.engine, store).build(self.name, update_lock=True)
        self.drop()

    def lie(self) -> None:
        """Say that what is defined now makes the image that was built before."""
        path, old = self.docker / "images.lock", self.locked.recipe
        path.write_text(path.read_text().replace(old, recipe_digest(self.docker, self.name)))

    def drop(self) -> None:
        transfer.discard(self.engine, self.locked.tag)

    def release(self, dist: Path, artefact: bytes) -> Path:
        """A signed release of one artefact; returns the public key."""
        key = load_or_create_key(self.root / "key.pem")
        code = read_stage_code(self.docker / "stages")
        steps = StepList(self.locked.identity, code)
        steps.add("look", "look", {}, {})
        plan = Plan("toy", self.name, tuple(steps.steps.values()), {"x": "look"}, (),
                    self.locked.identity, code)  # fmt: skip
        out = io.BytesIO()
        entries = [
            TarEntry(path.relative_to(self.root).as_posix(), path)
            for path in self.docker.rglob("*")
            if path.is_file()
        ]
        deterministic_tar(out, entries, mtime=0)
        statement = {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": "toy_look.tflite", "digest": {"sha256": sha256_bytes(artefact)}},
            ],
            "predicateType": PROVENANCE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "recipe": {"path": "x", "sha256": "0" * 64, "text": ""},
                        "model": "toy",
                        "variant": "look",
                    },
                    "internalParameters": {
                        "plan": plan_as_data(plan, "look"),
                        "limits": {"memory": 1 << 30, "timeout": 60},
                        "host": {"machine": "x86_64", "cpu": "any"},
                    },
                    "resolvedDependencies": [
                        {
                            "name": f"image/{self.name}",
                            "digest": {"sha256": self.locked.identity.removeprefix("sha256:")},
                        },
                        {"name": "source.tar", "digest": {"sha256": sha256_bytes(out.getvalue())}},
                    ],
                },
                "runDetails": {"builder": {"id": "x", "version": {"kiln": "1"}}},
            },
        }
        place = dist / "toy" / provenance_path("toy_look.tflite")
        place.parent.mkdir(parents=True)
        place.write_bytes(dsse.seal(statement, key))
        (dist / "toy" / "source.tar").write_bytes(out.getvalue())
        public = self.root / "their.pub"
        public.write_bytes(key.public_pem)
        return public


@pytest.fixture
def stranger(tmp_path: Path, engine: Engine) -> Iterator[Stranger]:
    made = Stranger(tmp_path / "theirs", engine)
    yield made
    made.drop()


@dataclass
class Victim:
    """A machine that reproduces what it gets."""

    kiln: Kiln
    stranger: Stranger
    dist: Path

    def reproduce(self, *words: str) -> Ended:
        public = self.stranger.root / "their.pub"
        return self.kiln("reproduce", self.dist, "--key", public, "--json", *words)

    def holds_it(self) -> bool:
        engine, locked = self.stranger.engine, self.stranger.locked
        return bool(transfer.tags(engine, f"tflite-kiln/{locked.name}"))


@pytest.fixture
def victim(session_kiln: Kiln, stranger: Stranger, tmp_path: Path) -> Victim:
    kiln = session_kiln.but(store=tmp_path / "store", env={"KILN_PROJECT": str(ROOT)})
    return Victim(kiln, stranger, tmp_path / "dist")


def verdict(ended: Ended) -> dict[str, Any]:
    (found,) = [event for event in ended.events if event["event"] == "verdict"]
    return dict(found)


def cause(ended: Ended) -> str:
    """Why it cannot be rebuilt, which is because of the image."""
    assert ended.code == 43, (ended.out, ended.err)
    found = verdict(ended)
    assert found["verdict"] == "cannot be rebuilt"
    (told,) = found["causes"]
    assert told["kind"] == "image"
    return str(told["text"])


def test_a_download_in_a_dockerfile(stranger: Stranger, victim: Victim, site: Site) -> None:
    """On their machine it is asked for; here never, neither without the option nor with it."""
    stranger.define(f"{HONEST}ADD http://127.0.0.1:{site.port}/evil /opt/evil\n",
                    INSTALL.replace("PORT", str(site.port)))  # fmt: skip
    stranger.build()
    assert site.asked, "this engine downloads what ADD names, so the test can fail"
    stranger.release(victim.dist, SEEN)
    site.asked.clear()
    assert "not in the engine" in cause(victim.reproduce())
    assert "an instruction that is not allowed" in cause(
        victim.reproduce("--build-strangers-image")
    )
    assert site.asked == []
    assert not victim.holds_it()


@pytest.mark.parametrize("line", ['RUN ["/bin/sh", "-c", "id"]', "RUN id", "USER kiln"])
def test_a_shell_in_a_dockerfile(stranger: Stranger, victim: Victim, line: str) -> None:
    stranger.define(f"{HONEST}{line}\n", INSTALL.replace("PORT", "1"))
    stranger.build()
    stranger.release(victim.dist, SEEN)
    assert "not in the engine" in cause(victim.reproduce())
    assert "an instruction that is not allowed" in cause(
        victim.reproduce("--build-strangers-image")
    )
    assert not victim.holds_it()


def test_with_a_person_s_word_it_is_built_off_the_network(
    stranger: Stranger, victim: Victim, site: Site
) -> None:
    """The artefact is what the installer saw: nothing but a loopback of its own."""
    stranger.define(HONEST, INSTALL.replace("PORT", str(site.port)))
    stranger.build()
    stranger.release(victim.dist, SEEN)
    assert "not in the engine" in cause(victim.reproduce())
    assert not victim.holds_it()
    ended = victim.reproduce("--build-strangers-image").ok()
    assert verdict(ended)["verdict"] == "identical"
    assert any("as you asked" in event.get("message", "") for event in ended.events)
    assert site.asked == []
    # From now on the engine holds it, by its identity.
    assert verdict(victim.reproduce().ok())["verdict"] == "identical"


def test_its_archive_is_enough(
    stranger: Stranger, victim: Victim, tmp_path: Path, engine: Engine
) -> None:
    stranger.define(HONEST, INSTALL.replace("PORT", "1"))
    images = Images(stranger.docker, lambda: engine, Store(Store.default_root()))
    images.build(stranger.name, update_lock=True)
    images.save(stranger.name, tmp_path / "image.tar")
    stranger.drop()
    stranger.release(victim.dist, SEEN)
    ended = victim.reproduce("--image", str(tmp_path / "image.tar")).ok()
    assert verdict(ended)["verdict"] == "identical"


def test_what_comes_out_otherwise_is_not_run(stranger: Stranger, victim: Victim) -> None:
    """And it does not stay."""
    stranger.define(HONEST, INSTALL.replace("PORT", "1"))
    stranger.build()
    stranger.define(HONEST, INSTALL.replace("PORT", "2").replace('"lo"', '"other"') + "#\n"
                    "open('/opt/more', 'w').close()\n")  # fmt: skip
    stranger.lie()
    stranger.release(victim.dist, SEEN)
    assert "is not the locked one" in cause(victim.reproduce("--build-strangers-image"))
    assert not victim.holds_it()


@pytest.mark.parametrize(
    "silent",
    [pytest.param(False, id="talking", marks=pytest.mark.nightly), pytest.param(True, id="silent")],
)
def test_a_build_that_does_not_end(
    stranger: Stranger, victim: Victim, silent: bool, engine: Engine
) -> None:
    stranger.define(HONEST, INSTALL.replace("PORT", "1"))
    stranger.build()
    mark = uuid.uuid4().hex
    say = "" if silent else "    print('busy', flush=True)\n"
    stranger.define(HONEST.replace('"environment"', f'"{mark}"'),
                    f"import time\nwhile True:\n    time.sleep(0.2)\n{say}")  # fmt: skip
    stranger.lie()
    stranger.release(victim.dist, SEEN)
    ended = victim.reproduce("--build-strangers-image", "--timeout", "10s")
    assert "takes longer than its time limit" in cause(ended)

    def left() -> list[Any]:
        found = engine.client.containers.list(all=True, ignore_removed=True)
        return [item for item in found if mark in str(item.attrs.get("Config", {}).get("Cmd"))]

    wait_until(lambda: not left(), pause=0.5)
