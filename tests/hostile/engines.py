"""Containers by owner, asked of the engine without kiln's own code; and engines of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors

from hostile.cases import LeftOutError

OWNER = "org.tflite-kiln.owner"
#: How often a start is tried.
_TRIES = 3


def containers_of(address: str, pid: int) -> list[str]:
    """Ids of containers that the kiln process ``pid`` made and that are still there."""
    with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
        found = client.api.containers(all=True, filters={"label": OWNER})
    return [str(item["Id"]) for item in found if item["Labels"][OWNER].startswith(f"{pid}-")]


def remove(address: str, names: Iterable[str]) -> None:
    """Remove these containers, so that what one case left is not found by the next."""
    with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
        for name in names:
            with contextlib.suppress(docker.errors.APIError):
                client.api.remove_container(name, force=True, v=True)


@dataclass
class OwnEngine:
    """A Docker engine of our own, with its data, its socket and its process: free to be killed.

    Args:
        root: a new folder with a short path (a socket's may have 107 bytes).
        image: tag of the sealed image to take over from the engine at ``source``.
    """

    root: Path
    source: str
    image: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"unix://{self.root}/d.sock"

    def start(self) -> None:
        """Start it, and wait until it answers; the image is loaded if it lacks it.

        Raises:
            LeftOutError: it does not start here.
        """
        for tool in ("dockerd", "unshare"):
            if os.geteuid() or shutil.which(tool) is None:
                raise LeftOutError("an engine of our own needs root, dockerd and unshare")
        self.root.mkdir(exist_ok=True)
        for _ in range(_TRIES):
            if self._start():
                self._load()
                return
            self.process = None
            self._end_descendants()
        last = (self.root / "log").read_text("utf-8", "replace")[-300:]
        raise LeftOutError(f"an engine of our own does not start: {last}")

    def _start(self) -> bool:
        """Start it; whether it answers. One that was killed leaves things in the next one's way."""
        (self.root / "pid").unlink(missing_ok=True)
        # In a network of its own: a second engine would take the first one's bridge away.
        command = [
            "unshare", "--net", "dockerd", "--host", self.address,
            "--data-root", f"{self.root}/data",
            "--exec-root", f"{self.root}/exec", "--pidfile", f"{self.root}/pid", "--bridge=none",
            "--iptables=false", "--ip-masq=false",
        ]  # fmt: skip
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.process = process
        for _ in range(300):
            if self.answers():
                return True
            if process.poll() is not None:
                return False
            time.sleep(0.2)
        process.kill()
        process.wait()
        return False

    def _load(self) -> None:
        with self._client(self.address) as ours, self._client(self.source) as theirs:
            if ours.api.images(self.image):
                return
            ours.api.load_image(theirs.images.get(self.image).save(named=self.image))

    @staticmethod
    def _client(address: str) -> contextlib.closing[docker.DockerClient]:
        # With a version it does not ask for one, of an engine that may not be there yet.
        return contextlib.closing(
            docker.DockerClient(base_url=address, version="1.40", timeout=600)
        )

    def answers(self, seconds: int = 60) -> bool:
        """Whether it says something within this time."""
        try:
            with contextlib.closing(
                docker.DockerClient(base_url=self.address, version="1.40", timeout=seconds)
            ) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, OSError):
            return False

    def signal(self, number: int) -> None:
        """Send the engine's own process a signal (not what it started)."""
        assert self.process is not None
        # `unshare` has become dockerd: it executes it in its own process.
        os.kill(self.process.pid, number)

    def dead(self) -> None:
        """Wait until the engine's process is gone, and end what it left running."""
        assert self.process is not None
        self.process.wait(60)
        self.process = None
        self._end_descendants()

    def end(self) -> None:
        """Kill it with everything it started, and remove its data."""
        if self.process is not None:
            for number in (signal.SIGCONT, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    self.process.send_signal(number)
            self.process.wait()
            self.process = None
        self._end_descendants()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            place = line.split()[4]
            if place.startswith(f"{self.root}/"):
                subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def _end_descendants(self) -> None:
        ours: set[int] = set()
        for _ in range(50):
            ours = _marked(f"{self.root}/".encode(), ours)
            for pid in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not ours:
                break
            time.sleep(0.1)


def _marked(mark: bytes, known: set[int]) -> set[int]:
    """Living processes with ``mark`` in their command line, or known, or children of such."""
    parents: dict[int, int] = {}
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            pid = int(folder.name)
            if state != "Z" and pid != os.getpid():
                parents[pid] = int(parent)
                command = (folder / "cmdline").read_bytes()
                if pid in known or (mark in command and command.startswith(_ENGINES)):
                    found.add(pid)
    grown = 0
    while grown != len(found):
        grown = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found - {os.getpid()}


#: How the command lines of an engine's processes begin: nobody else's may be ended for a path.
_ENGINES = (
    b"dockerd", b"containerd", b"/usr/bin/containerd", b"/usr/sbin/dockerd", b"/usr/bin/dockerd",
    b"unshare\0--net\0dockerd", b"runc",
)  # fmt: skip
