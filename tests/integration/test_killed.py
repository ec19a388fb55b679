"""Killed drivers, stopped drivers, killed containers, killed engines: the next run carries on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
from patience import PATIENCE, wait_until
from support import RECORDS, SAMPLE, Kiln, containers_of, running

from kiln.core.errors import EngineFailedError
from kiln.images.listing import listed
from kiln.images.lock import Locked
from kiln.running.engine import OWNER_LABEL, Engine, Limits

BUILD = ("build", SAMPLE, "--variant", "float32")

#: A build's course, as it tells it; each kill lies a random moment after one of these.
MOMENTS: tuple[tuple[dict[str, Any], float], ...] = (
    ({"event": "stage", "id": "checkpoint", "state": "started"}, 3.0),
    ({"event": "stage", "id": "checkpoint", "state": "finished"}, 0.3),
    ({"event": "stage", "id": "export", "state": "started"}, 6.0),
    ({"event": "stage", "id": "export", "state": "finished"}, 0.3),
    ({"event": "stage", "id": "annotate-float32", "state": "started"}, 0.6),
)


def _fits(kiln: Kiln) -> None:
    """dist is absent or complete: whatever model is there verifies but for the sums beside it."""
    if not (kiln.dist / SAMPLE).exists():
        return
    names = {path.name for path in (kiln.dist / SAMPLE).iterdir()}
    expected = {*RECORDS, "attestations", "previews", f"{SAMPLE}_float32.tflite"}
    assert names == expected
    ended = kiln("verify", kiln.dist)
    if ended.code != 0:
        # Between the model and its sums: sums and the release's statement are told to be missing
        # or old, no model is.
        told = ended.refused(41)
        bad = [line.strip() for line in told.splitlines() if line.startswith("  ")]
        late = ("SHA256SUMS", "release.sigstore.json")
        wrong = [line for line in bad if line.startswith(SAMPLE)]
        assert not [line for line in wrong if not any(name in line for name in late)], told


def test_kill_9_at_any_moment(sample: Any, fresh: Kiln, engine: Engine) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    left: set[str] = set()
    for event, span in MOMENTS:
        with running(fresh, *BUILD) as build:
            with contextlib.suppress(AssertionError):  # a stage that is known is not begun
                build.wait_for(**event)
            time.sleep(chance.uniform(0, span))
            build.process.kill()
            build.process.wait()
        _fits(fresh)
        left |= {str(item.id) for item in containers_of(engine, build.process.pid)}
    assert left  # at least one was killed with its container at work
    # One more variant, so that there is something to run: a build with nothing to do does not
    # look for an engine, and finds no leftovers in it.
    fresh(*BUILD, "--variant", "float16").ok()
    there = {str(item.id) for item in engine.client.containers.list(all=True, ignore_removed=True)}
    assert not left & there, "a killed run's container is still there after the next build"
    assert fresh.leftovers() == []
    assert fresh("verify", fresh.dist).code == 0
    for variant in ("float32", "float16"):
        path = sample.artefact(variant)
        assert (fresh.dist / SAMPLE / path.name).read_bytes() == path.read_bytes()


_KILLED_WITH_A_SCRATCH = """\
import os, pathlib, signal, sys
from kiln.core.store import Store
with Store(pathlib.Path(sys.argv[1])).scratch() as folder:
    (folder / "out").mkdir()
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftovers_still_being_written(sample: Any, shared: Kiln) -> None:
    """A killed driver's container works on for a while, in a scratch folder that is swept."""
    command = [sys.executable, "-c", _KILLED_WITH_A_SCRATCH, str(shared.store)]
    killed = subprocess.run(
        command, env=shared.environment(), capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out = Path(killed.stdout.strip()) / "out"
    over = threading.Event()
    inside = os.open(out, os.O_RDONLY)  # as a mount does: it stays when the name is gone

    def write() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                os.close(os.open(os.urandom(8).hex(), os.O_CREAT | os.O_WRONLY, dir_fd=inside))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        shared("build", SAMPLE).ok()
    finally:
        over.set()
        for writer in writers:
            writer.join()
        os.close(inside)
    shared("build", SAMPLE).ok()
    assert shared.leftovers() == []


def test_kill_9_while_publishing(sample: Any, shared: Kiln, tmp_path: Path) -> None:
    """All stages are known: the whole process is start, copy, sign and rename."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shared = shared.but(env={"TMPDIR": str(scratch)})
    begin = time.monotonic()
    shared("build", SAMPLE).ok()
    whole = time.monotonic() - begin
    complete = set(shared.published())
    seen = set()
    for number in range(10):
        shutil.rmtree(shared.dist, ignore_errors=True)
        with shared.start("build", SAMPLE) as process:
            time.sleep(whole * (0.3 + 0.07 * number))
            process.kill()
        there = {name for name in shared.published() if not name.startswith(".")}
        seen.add(len(there))
        inside = {name for name in there if name.startswith(f"{SAMPLE}/")}
        assert inside in (set(), {name for name in complete if name.startswith(f"{SAMPLE}/")})
    assert list(scratch.iterdir()) == []  # nobody would ever clean up there
    print(f"files in dist when killed: {sorted(seen)} of {len(complete)}")
    shared("build", SAMPLE).ok()
    assert set(shared.published()) == complete
    assert shared("verify", shared.dist).code == 0
    assert shared.leftovers() == []


@pytest.mark.parametrize("moment", ["starting", "running"])
def test_ctrl_c(fresh: Kiln, engine: Engine, moment: str) -> None:
    with running(fresh, *BUILD) as build:
        if moment == "starting":  # the container is made, or about to be
            wait_until(lambda: (fresh.store / "tmp").exists() and _busy(fresh), pause=0.01)
        else:
            build.wait_for(event="stage", id="checkpoint", state="started")
        build.process.send_signal(signal.SIGINT)
        ended = build.end()
    assert ended.code == 130
    # Nothing was waited for: neither a stage that runs nor one that comes.
    assert not [event for event in ended.events if event.get("state") == "finished"]
    assert "Traceback" not in ended.err
    (error,) = [event for event in ended.events if event["event"] == "error"]
    assert error["kind"] == "interrupted"
    wait_until(lambda: not containers_of(engine, ended.pid))
    assert fresh.published() == []
    assert fresh.leftovers() == []


def _busy(kiln: Kiln) -> bool:
    return any((kiln.store / "tmp").iterdir())


def test_container_killed_from_outside(fresh: Kiln, engine: Engine) -> None:
    with running(fresh, *BUILD) as build:
        build.wait_for(event="stage", id="checkpoint", state="started")
        (container,) = containers_of(engine, build.process.pid)
        container.kill()
        ended = build.end()
    _failed(ended, 24, "stage-failed")
    assert not containers_of(engine, ended.pid)
    assert fresh.published() == []
    assert fresh.leftovers() == []


def test_container_removed_from_outside(fresh: Kiln, engine: Engine) -> None:
    with running(fresh, *BUILD) as build:
        build.wait_for(event="stage", id="checkpoint", state="started")
        (container,) = containers_of(engine, build.process.pid)
        container.remove(force=True)
        ended = build.end()
    assert ended.code in (21, 24, 26)
    assert "Traceback" not in ended.err
    assert fresh.leftovers() == []


def _failed(ended: Any, code: int, kind: str) -> None:
    assert ended.code == code, ended
    assert "Traceback" not in ended.err
    (error,) = [event for event in ended.events if event["event"] == "error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert error["message"]
    assert error["remedy"]


# --- engines that go away --------------------------------------------------------------------


class Relay:
    """A socket that passes everything on to the engine's, until it is cut."""

    def __init__(self, path: Path, engine: str) -> None:
        self.address = f"unix://{path}"
        self._path, self._engine = path, engine.removeprefix("unix://")
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(self._engine)
                self._open += [ours, theirs]
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Close every connection and answer no more."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_engine_out_of_reach(fresh: Kiln, engine: Engine) -> None:
    """The connection breaks in the middle of a stage; the container it leaves is found later."""
    if not engine.address.startswith("unix://"):
        pytest.skip("needs an engine on a local socket")
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        relay = Relay(Path(folder) / "engine.sock", engine.address)
        kiln = fresh.but(engine=relay.address)
        with running(kiln, *BUILD) as build:
            build.wait_for(event="stage", id="checkpoint", state="started")
            relay.cut()
            ended = build.end()
    _failed(ended, 21, "engine-failed")
    assert fresh.published() == []
    assert len(containers_of(engine, ended.pid)) == 1  # nobody could remove it
    assert engine.sweep() >= 1
    assert not containers_of(engine, ended.pid)
    assert fresh.leftovers() == []


def test_no_engine_at_all(fresh: Kiln) -> None:
    kiln = fresh.but(engine="unix:///nowhere/docker.sock")
    kiln(*BUILD).refused(20, "/nowhere/docker.sock", "no such socket")
    assert fresh.published() == []
    assert fresh.leftovers() == []


@pytest.fixture
def private_engine(engine: Engine, odapi: Locked) -> Iterator[tuple[Engine, Any, str]]:
    """A second engine, in a network of its own: (engine, its process, an image it holds)."""
    for tool in ("dockerd", "unshare"):
        if os.geteuid() or not shutil.which(tool):
            pytest.skip("a second engine needs root, dockerd and unshare")
    # The base image is enough to have something running, and small.
    images = [
        name for image in listed(engine, reference="tflite-kiln/base") for name in image.names
    ]
    if not images:
        pytest.skip("the engine does not hold the base image")
    with tempfile.TemporaryDirectory(prefix="kiln-engine-") as name:
        root = Path(name)
        address = f"unix://{root}/d.sock"
        # Its own network namespace: a second dockerd would take the first one's bridge away.
        command = [
            "unshare", "--net", "dockerd", "--host", address, "--data-root", str(root / "data"),
            "--exec-root", str(root / "exec"), "--pidfile", str(root / "pid"), "--bridge=none",
            "--iptables=false", "--ip-masq=false",
        ]  # fmt: skip
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, stdin=subprocess.DEVNULL
            )
        try:
            # With a version it does not ask for one, of an engine that is not there yet.
            client = docker.DockerClient(base_url=address, version="1.40", timeout=120)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: _answers(client) or process.poll() is not None)
            if not _answers(client):
                pytest.skip(f"a second engine does not start: {(root / 'log').read_text()[-300:]}")
            client.images.load(engine.client.images.get(images[0]).save(named=images[0]))
            yield Engine(address, client), process, images[0]
        finally:
            _end_engine(root, process)


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False


def _end_engine(root: Path, process: subprocess.Popen[bytes]) -> None:
    """Kill it with everything it started: containerd, the shims, and what they run."""
    process.kill()
    process.wait()
    ours: set[int] = set()
    for _ in range(50):
        ours = _descendants(str(root).encode(), ours)
        for pid in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not ours:
            break
        time.sleep(0.1)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split()[4]
        if place.startswith(f"{root}/"):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def _descendants(mark: bytes, known: set[int]) -> set[int]:
    """Living processes with ``mark`` in their command line, or known, or children of such."""
    parents: dict[int, int] = {}
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z":
                continue
            pid = int(folder.name)
            parents[pid] = int(parent)
            if pid in known or mark in (folder / "cmdline").read_bytes():
                found.add(pid)
    grown = 0
    while grown != len(found):
        grown = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found - {os.getpid()}


def test_engine_killed(private_engine: tuple[Engine, Any, str]) -> None:
    """A real one, by SIGKILL, with a container at work."""
    engine, process, image = private_engine
    said: list[bytes] = []

    def kill(chunk: bytes) -> None:
        said.append(chunk)
        process.kill()

    with pytest.raises(EngineFailedError, match="went away while running a stage") as caught:
        engine.run(
            image,
            ["sh", "-c", "echo started; exec sleep 60"],
            mounts={},
            environment={},
            limits=Limits(),
            on_stdout=kill,
            user="1000:1000",
        )
    assert said == [b"started\n"]
    assert (caught.value.exit_code, caught.value.kind) == (21, "engine-failed")
    assert caught.value.remedy


# --- two at a time ---------------------------------------------------------------------------


def test_two_builds_at_once(sample: Any, shared: Kiln, engine: Engine) -> None:
    """The same model into the same dist: one does the work, both succeed, nothing is torn."""
    begun = [shared.start("build", SAMPLE) for _ in range(3)]
    codes = []
    for process in begun:
        _, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err, err
        codes.append(process.returncode)
    assert codes == [0, 0, 0]
    assert shared("verify", shared.dist).code == 0
    assert shared.leftovers() == []
    labels = [c.labels[OWNER_LABEL] for c in engine.client.containers.list(
        all=True, filters={"label": OWNER_LABEL}, ignore_removed=True)]  # fmt: skip
    assert not [item for item in labels for p in begun if item.startswith(f"{p.pid}-")]
