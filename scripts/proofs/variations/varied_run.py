"""Run kiln under a circumstance: its command, environment, folders and engine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.errors import EngineUnavailableError
from kiln.core.files import copy_file
from kiln.core.store import Store
from kiln.project.folders import Project
from kiln.sources import debian
from proofs.variations.circumstances import CLOCK, PLACE, USER, Circumstance
from proofs.variations.more_files import copy_extended, extend

HERE = Path(__file__).resolve().parent
RELEASES = ("11", "13")  # of Debian, in the images
LIBRARY = "usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

_COPIED = ("docker", "models", "scripts", "pyproject.toml", "LICENSE", "NOTICE")
_ENGINE_PATIENCE = 60.0  # seconds until a new engine must answer
#: References to downloads, which are copied; results of stages and checks are not.
_REFS = ("pypi", "archive", "hub")

#: Prefix of the caller's variables for keys and identity, which must not be passed on.
_OWN = "KILN_SIGN"
_SOCKET = "/var/run/docker.sock"


def why_not(item: Circumstance) -> str:
    """Say why this machine cannot provide the circumstance; "" if it can."""
    if item.root and os.getuid() != 0:
        return "only root can"
    missing = [name for name in item.needs if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed"
    if item.user and not interpreter_for_others():
        return "no Python with kiln's requirements that another user can run"
    return ""


def faketime(store: Store, scratch: Path) -> dict[str, Path]:
    """Unpack the library that fakes the date from its Debian packages.

    Returns:
        By Debian's release: Python of Debian 13 sleeps by a call that the older one makes fail.

    Raises:
        SourceUnavailableError, DigestMismatchError: see :func:`kiln.sources.debian.fetch_lock`.
    """
    from debian.debfile import DebFile

    found = {}
    for release in RELEASES:
        (digest,) = debian.fetch_lock(HERE / f"faketime-{release}.lock", store).values()
        path = found[release] = scratch / f"libfaketime-{release}.so.1"
        package: Any = DebFile(str(store.path(digest)))
        path.write_bytes(package.data.get_content(f"./{LIBRARY}"))
        path.chmod(0o644)
    return found


Outcome = tuple[int, list[dict[str, Any]]]


@dataclass
class Varied:
    """A circumstance prepared in ``folder``.

    Args:
        folder: a new folder for this circumstance only.
        tools: a store with the emulator.
        libraries: see :func:`faketime`.
    """

    item: Circumstance
    project: Project
    folder: Path
    tools: Store
    libraries: Mapping[str, Path]

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self.home = self.folder / "home"
        self.home.mkdir()
        self.place = self.project.root
        if self.item.elsewhere or self.item.user:
            self.place = self.folder / PLACE
            copy_checkout(self.project.root, self.place, reverse=self.item.reverse)
            self.models = self.place / "models"
            extend(self.models)
        else:
            self.models = copy_extended(self.project.models, self.folder / "models")
        self.count = 0

    @property
    def dist(self) -> Path:
        """The folder that it publishes to."""
        return self.folder / "dist"

    def run(
        self, arguments: Sequence[str], address: str | None
    ) -> tuple[int, list[dict[str, Any]]]:
        """Run kiln with ``--json``; return its exit code and events.

        Args:
            address: of the engine, if not the usual one.
        """
        item = self.item
        if item.user:
            self._give_away()
        self.count += 1
        inside = dict(item.inside)
        if inside or item.user:
            inside["launcher"] = str(self.home / f"launcher-{self.count}")
            inside["tools"] = str(self.tools.root)
            inside["faketime"] = {name: str(path) for name, path in self.libraries.items()}
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_OWN)},
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "KILN_STORE": str(self.home / "store"),
            "KILN_PROJECT": str(self.place),
            "PYTHONPATH": os.pathsep.join(self._paths()),
            "VARIATION": json.dumps(inside),
            **item.environment,
        }
        if address is not None:
            environment["DOCKER_HOST"] = address
        command = [self._python(), "-B", "-m", "proofs.variations.patched_kiln"]
        done = subprocess.run(
            [*self._prefix(), *command, *arguments, "--json"],
            env=environment,
            cwd="/" if item.elsewhere else self.place,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        events = []
        for line in done.stdout.splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        if done.returncode and not any(event.get("event") == "error" for event in events):
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            events.append({"event": "error", "message": last})
        return done.returncode, events

    def _prefix(self) -> list[str]:
        """Build the command prefix that starts kiln's process."""
        parts: list[str] = []
        shell = list(self.item.before)
        if self.item.clock:
            # Set in the shell, so that it does not apply to the programs before it.
            shell.append(f'export FAKETIME="{CLOCK}" FAKETIME_DONT_FAKE_MONOTONIC=1')
            shell.append(f'export LD_PRELOAD="{self.libraries["11"]}"')
        if any(line.startswith("hostname ") for line in shell):
            parts += ["unshare", "--uts"]
        if shell:
            parts += ["sh", "-c", "\n".join(["set -e", *shell, 'exec "$@"']), "sh"]
        if self.item.user:
            group = Path(_SOCKET).stat().st_gid if Path(_SOCKET).exists() else USER
            parts += ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={group}"]
        return parts

    def _paths(self) -> list[str]:
        paths = [str(HERE / "site")] if self.item.reverse else []
        paths.append(str(self.place / "scripts"))
        if self.item.user and self._python() != sys.executable:
            paths.append(sysconfig.get_path("purelib"))
        return paths

    def _python(self) -> str:
        return interpreter_for_others() if self.item.user else sys.executable

    def _give_away(self) -> None:
        for place, folders, _ in os.walk(self.home):
            for name in ("", *folders):
                os.chown(Path(place, name), USER, USER)
        os.chown(self.folder, USER, USER)

    @contextlib.contextmanager
    def engine(self) -> Iterator[str | None]:
        """Start a separate engine for the context and yield its address, if needed, else ``None``.

        Raises:
            EngineUnavailableError: the engine does not start.
        """
        if not self.item.engine:
            yield None
            return
        # Short names: a socket's path may have at most 107 bytes.
        root = self.folder / "e"
        address = f"unix://{root}/s"
        log = self.folder / "engine.log"
        with log.open("wb") as output:
            daemon = subprocess.Popen(
                ["dockerd", "--data-root", root / "data", "--exec-root", root / "x",
                 "--pidfile", root / "pid", "--host", address, "--storage-driver", "vfs",
                 "--bridge", "none", "--iptables=false", "--ip-masq=false",
                 "--log-driver", "local", "--default-shm-size", "8M",
                 "--default-ulimit", "nofile=4096:4096"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            await_engine(daemon, address, log)
            yield address
        finally:
            daemon.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()
            # dockerd mounts its data folder on itself and does not always unmount it.
            for mounted in _mounts_below(root):
                subprocess.run(["umount", "--lazy", mounted], capture_output=True, check=False)


def copy_checkout(root: Path, target: Path, *, reverse: bool) -> None:
    """Copy the needed parts of a checkout, file by file; ``reverse``: last name first."""
    paths = [root / name for name in _COPIED if (root / name).is_file()]
    for name in _COPIED:
        paths += [path for path in (root / name).rglob("*") if path.is_file()]
    for path in sorted(paths, reverse=reverse):
        if "__pycache__" not in path.parts:
            place = target / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, place)
    for place_, _, _ in os.walk(target):
        Path(place_).chmod(0o755)


def share_contents(store: Store, target: Path) -> None:
    """Fill a new store with the contents of another, without results of stages."""
    for name in ("blobs", *(f"refs/{kind}" for kind in _REFS)):
        if (store.root / name).is_dir():
            shutil.copytree(store.root / name, target / name, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def interpreter_for_others() -> str:
    """Find a Python with kiln's requirements that another user can run; "" if there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/{version}"):
        found = subprocess.run(
            ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", path, "-B", "-c",
             "import click, docker, pydantic, model_signing"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": sysconfig.get_path("purelib")},
            cwd="/", capture_output=True, check=False,
        )  # fmt: skip
        if found.returncode == 0:
            return path
    return ""


def _mounts_below(folder: Path) -> list[str]:
    """List the mount points below a folder, innermost first."""
    lines = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines()
    places = [
        re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[1]) for line in lines
    ]
    return sorted((one for one in places if Path(one).is_relative_to(folder)), reverse=True)


def await_engine(daemon: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Wait until a started engine answers.

    Raises:
        EngineUnavailableError: it does not; the message has the last line of its log.
    """
    import docker
    import docker.errors

    end = time.monotonic() + _ENGINE_PATIENCE
    while time.monotonic() < end and daemon.poll() is None:
        with contextlib.suppress(docker.errors.DockerException):
            client = docker.DockerClient(base_url=address, timeout=5)
            client.ping()
            client.close()
            return
        time.sleep(0.2)
    last = (log.read_text("utf-8", "replace").strip().splitlines() or ["no word"])[-1]
    raise EngineUnavailableError(
        f"The engine does not start: {last[:300]}",
        "Leave it out: name the others only.",
    )
