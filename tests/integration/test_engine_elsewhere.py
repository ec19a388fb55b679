"""An engine that does not see this machine's files, as one on another machine.

The engine is the one at hand, through a TCP port. What it does not see is a store that lies in a
mount namespace of the command's own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forwarded import forwarded
from patience import PATIENCE
from support import SAMPLE, Kiln, Running, Sample

from kiln.images.lock import Locked
from kiln.running.engine import OWNER_LABEL, Engine
from kiln.running.limits import Limits
from kiln.running.stage_user import stage_user

#: The command sees a file system of its own at its first argument; nobody else does.
APART = ("unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount -t tmpfs -o size=64g tmpfs "$0" && exec "$@"')  # fmt: skip


@pytest.fixture
def elsewhere(engine: Engine, odapi: Locked, session_kiln: Kiln, tmp_path: Path) -> Iterator[Kiln]:
    """The command with a store that its engine does not see, at a ``tcp:`` address."""
    if not engine.address.startswith("unix://"):
        pytest.skip(f"{engine.address} is not a socket of this machine")
    store = tmp_path / "store"
    store.mkdir()
    if subprocess.run([*APART, store, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    with forwarded(engine.address.removeprefix("unix://")) as address:
        yield session_kiln.but(
            engine=address, store=store, dist=tmp_path / "dist", prefix=(*APART, str(store))
        )


def test_doctor_says_so(elsewhere: Kiln) -> None:
    said = elsewhere("doctor").ok().out
    assert "this engine does not see those of this machine" in said
    assert "sees those of this machine" in elsewhere.but(prefix=())("doctor").ok().out


def test_a_build_has_the_same_bytes(elsewhere: Kiln, sample: Sample, engine: Engine) -> None:
    ended = elsewhere("build", SAMPLE, "--variant", "dynamic").ok()
    made = elsewhere.dist / SAMPLE / f"{SAMPLE}_dynamic.tflite"
    assert made.read_bytes() == sample.artefact("dynamic").read_bytes()
    # The engine keeps nothing; nor did Docker make folders for what it did not find.
    assert engine.is_podman or list(elsewhere.store.iterdir()) == []
    assert held(engine, ended.pid) == set()


#: What one container does; the result is a JSON object.
ONE = """
import json, os, sys
from pathlib import Path
from kiln.running.engine import OWNER_LABEL, Engine
from kiln.running.limits import Limits

root, image, command = sys.argv[1:]
inputs, outputs = Path(root, "in"), Path(root, "out")
for folder in (inputs / "below", outputs):
    folder.mkdir(parents=True)
(inputs / "below" / "file").write_text("what is in it")
if os.getuid() == 0:
    os.chown(outputs, 4242, 4242)
engine = Engine.find()
outcome = engine.run(
    image, ("sh", "-c", command), mounts={inputs: ("/in", "ro"), outputs: ("/out", "rw")},
    environment={}, limits=Limits(timeout=60, output=20 << 20, output_files=100),
    on_stdout=lambda chunk: print(chunk.decode(), end="", flush=True), user="4242:4242",
)
print(json.dumps({
    "copied": engine.copies_files, "code": outcome.exit_code, "log": outcome.log,
    "refused": None if outcome.refused is None else outcome.refused.message,
    "files": {str(path.relative_to(outputs)): [path.stat().st_uid, path.stat().st_size]
              for path in sorted(outputs.rglob("*")) if path.is_file()},
}))
"""


def one_container(elsewhere: Kiln, odapi: Locked, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*elsewhere.prefix, sys.executable, "-c", ONE, str(elsewhere.store), odapi.tag, command],
        env=elsewhere.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )


def what_came_of(elsewhere: Kiln, odapi: Locked, command: str) -> dict[str, Any]:
    with one_container(elsewhere, odapi, command) as process:
        out, _ = process.communicate(timeout=PATIENCE)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert found["copied"] is True
    return found


def held(engine: Engine, pid: int) -> set[str]:
    """Containers and volumes of a process that the engine has."""
    ours = {"label": OWNER_LABEL}
    containers = engine.client.containers.list(all=True, filters=ours, ignore_removed=True)
    volumes = engine.client.volumes.list(filters=ours)
    return {i.name for i in (*containers, *volumes) if i.name.startswith(f"kiln-{pid}-")}


def test_files_are_copied_there_and_back(elsewhere: Kiln, odapi: Locked) -> None:
    command = "mkdir /out/step && cat /in/below/file > /out/step/copy && ! touch /in/below/no"
    found = what_came_of(elsewhere, odapi, command)
    assert (found["code"], found["refused"]) == (0, None)
    assert found["files"] == {"step/copy": [4242, len("what is in it")]}
    assert "Read-only file system" in found["log"]


@pytest.mark.parametrize(
    "command",
    [
        "for i in 1 2; do dd if=/dev/zero of=/out/$i bs=1M count=15 || exit 1; done",
        "for i in $(seq 300); do : > /out/$i || exit 1; done",
    ],
    ids=["bytes", "files"],
)
def test_what_a_container_writes_is_bounded_while_it_grows(
    elsewhere: Kiln, odapi: Locked, command: str
) -> None:
    found = what_came_of(elsewhere, odapi, command)
    assert found["code"] != 0
    assert "No space left on device" in found["log"]


@pytest.mark.parametrize(
    "command",
    ["ln -s /etc/passwd /out/link", "ln -s ../../../escape /out/link", "mkfifo /out/pipe"],
)
def test_nothing_but_files_and_folders_comes_back(
    elsewhere: Kiln, odapi: Locked, command: str
) -> None:
    found = what_came_of(elsewhere, odapi, command)
    assert found["code"] == 0
    assert "was not taken" in found["refused"]
    assert found["files"] == {}


def test_a_stopped_build_leaves_no_volumes(elsewhere: Kiln, engine: Engine) -> None:
    with elsewhere.start("build", SAMPLE, "--json") as process:
        build = Running(process)
        build.wait_for(event="stage", state="started")
        process.send_signal(signal.SIGINT)
        assert build.end().code == 130
    assert held(engine, process.pid) == set()


def test_a_killed_driver_s_volumes_are_swept(
    elsewhere: Kiln, odapi: Locked, engine: Engine
) -> None:
    with one_container(elsewhere, odapi, "echo started; exec sleep 60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.kill()
    left = held(engine, process.pid)
    assert len(left) == 4, left  # the container, its keeper, and a volume of each mount
    engine.sweep()
    assert held(engine, process.pid) == set()


def test_a_folder_of_any_name_gets_there(engine: Engine, odapi: Locked, area: Path) -> None:
    folder = area / "a: b, 'c' é,source=x"
    folder.mkdir(mode=0o755)
    (folder / "file").write_text("what is in it")
    said = bytearray()
    outcome = engine.run(
        odapi.tag,
        ("cat", "/in/file"),
        mounts={folder: ("/in", "ro")},
        environment={},
        limits=Limits(timeout=60),
        on_stdout=said.extend,
        user=":".join(map(str, stage_user(rootless=engine.rootless))),
    )
    assert (outcome.exit_code, said) == (0, b"what is in it"), outcome.log
