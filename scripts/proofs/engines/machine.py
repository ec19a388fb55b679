"""Engines that are not installed: unpacked aside, started in namespaces of their own, stopped."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.errors import EngineUnavailableError
from kiln.core.untrusted import parse_toml
from kiln.sources import debian
from proofs.variations.circumstances import USER
from proofs.variations.varied_run import await_engine

_HERE = Path(__file__).parent
_KEYS = Path("/usr/share/keyrings")
_PROGRAMS = ("apt-get", "dpkg-deb", "setpriv", "tar", "unshare")
_MERGED = ("bin", "lib", "lib64", "sbin")
_SUBORDINATE = 200_000
"""First of the 65,536 ids that the ordinary user's containers have beside the user's own."""


@dataclass(frozen=True)
class Engine:
    """An entry of ``engines.toml``.

    Attributes:
        kind: ``docker`` or ``podman``.
        suite: the Debian release whose packages it is, by its code name.
    """

    name: str
    system: str
    suite: str
    kind: str
    packages: tuple[str, ...]
    rootless: bool = False

    @property
    def user(self) -> int | None:
        """Id of the user that runs it, and kiln; None for root."""
        return USER if self.rootless else None


@dataclass(frozen=True)
class Known:
    """What ``engines.toml`` says."""

    engines: tuple[Engine, ...]
    tools: tuple[str, ...]


def known_engines() -> Known:
    """Read ``engines.toml``."""
    data = parse_toml((_HERE / "engines.toml").read_bytes())
    entries: list[dict[str, Any]] = data["engine"]
    engines = (Engine(**{**item, "packages": tuple(item["packages"])}) for item in entries)
    return Known(tuple(engines), tuple(data["tools"]))


def why_not() -> str:
    """Say why this machine cannot run other engines; "" if it can."""
    if os.getuid() != 0:
        return "only root can"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{missing[0]} is not installed"
    if not all(Path("/", name).is_symlink() for name in ("bin", "lib")):
        return "/bin and /lib are not links into /usr"
    if not debian.mirrors()["debian"]:
        return "apt's configuration names no Debian mirror"
    return ""


def unpack(suite: str, packages: Sequence[str], folder: Path) -> Path:
    """Unpack Debian packages, with all they depend on, below a new folder; return the tree.

    apt resolves, fetches and verifies them with a state of its own. Their scripts do not run.

    Raises:
        EngineUnavailableError: apt cannot; the message has its last words.
    """
    state, tree = folder / "apt", folder / "tree"
    for name in ("lists/partial", "cache/archives/partial", "etc", "trusted"):
        (state / name).mkdir(parents=True)
    for key in _KEYS.glob("debian-archive-*.gpg"):
        shutil.copy(key, state / "trusted")
    mirrors = debian.mirrors()
    lines = [f"deb {mirrors['debian'][0]} {suite} main"]
    lines += [f"deb {one} {suite}-security main" for one in mirrors["debian-security"][:1]]
    (state / "etc/sources.list").write_text("\n".join(lines) + "\n", "utf-8")
    (state / "status").touch()
    options = {
        "Dir::State": state, "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status", "Dir::Cache": state / "cache",
        "Dir::Etc::SourceList": state / "etc/sources.list", "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::TrustedParts": state / "trusted", "Dir::Etc::Parts": "/dev/null",
        "APT::Architecture": "amd64", "APT::Architectures": "amd64",
        "APT::Install-Recommends": "false", "APT::Sandbox::User": "root",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _call([*apt, "update"], f"look into Debian's {suite}")
    _call([*apt, "install", "--yes", "--download-only", *packages], f"fetch {' '.join(packages)}")
    for name in _MERGED:  # before Debian 13, packages have files in both places
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    command = 'for deb in "$1"/*.deb; do dpkg-deb --fsys-tarfile "$deb" | ' + (
        'tar -x --keep-directory-symlink -C "$2" || exit 1; done'
    )
    _call(["sh", "-c", command, "sh", str(state / "cache/archives"), str(tree)], "unpack them")
    shutil.rmtree(state)
    _write_users(tree / "etc")
    return tree


def _write_users(etc: Path) -> None:
    """Write what the packages' scripts would have made: root and an ordinary user."""
    for name, line in (
        ("passwd", "{name}:x:{id}:{id}::/:/bin/sh"),
        ("group", "{name}:x:{id}:"),
    ):
        users = (("root", 0), ("kiln", USER), ("nogroup", 65_534))
        text = "".join(line.format(name=user, id=number) + "\n" for user, number in users)
        (etc / name).write_text(text, "utf-8")
    for name in ("subuid", "subgid"):
        (etc / name).write_text(f"kiln:{_SUBORDINATE}:65536\n", "utf-8")
    (etc / "hosts").write_text("127.0.0.1 localhost\n", "utf-8")
    (etc / "resolv.conf").touch()


def _call(command: Sequence[str], doing: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise EngineUnavailableError(
            f"Could not {doing}: {last[:200]}", "Check the network and apt's sources."
        )


@contextlib.contextmanager
def running(engine: Engine, tree: Path | None, folder: Path) -> Iterator[str]:
    """Run an engine on data in ``folder``; yield its address. All of it is gone afterwards.

    Args:
        tree: see :func:`unpack`; None for programs that this machine has installed.
        folder: new, and short: a socket's path may have at most 107 bytes.

    Raises:
        EngineUnavailableError: it does not start.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    (folder / "run").mkdir(mode=0o700)
    address, log = f"unix://{folder}/s", folder / "engine.log"
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "CONTAINERS_CONF": str(home / "containers.conf"),
    }
    (home / "containers.conf").write_text(_podman_settings(), "utf-8")
    if engine.user is not None:
        give(folder, engine.user)
    command = _docker(engine, folder) if engine.kind == "docker" else _podman(folder)
    command = [
        # Should this process be killed, so is the engine.
        "setpriv", "--pdeathsig=KILL",
        "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
        "sh", str(_HERE / "machine.sh"), str(tree or ""), str(engine.user or ""), *command,
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd="/", stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        await_engine(process, address, log)
        yield address
    finally:
        # With the first process of its namespaces go all others, and with the last all mounts.
        process.send_signal(signal.SIGKILL)
        process.wait()


def give(folder: Path, user: int) -> None:
    """Give a folder and all folders below it to a user, and the files in the topmost."""
    for place, _, names in os.walk(folder):
        os.chown(place, user, user)
        for name in names if place == str(folder) else ():
            os.chown(Path(place, name), user, user)


def _docker(engine: Engine, folder: Path) -> list[str]:
    command = [
        "dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/x",
        "--pidfile", f"{folder}/pid", "--host", f"unix://{folder}/s",
        "--bridge=none", "--iptables=false", "--ip-masq=false",
    ]  # fmt: skip
    if not engine.rootless:
        return command
    kit = ["rootlesskit", "--state-dir", f"{folder}/kit", "--net=slirp4netns"]
    return [*kit, "--copy-up=/etc", "--copy-up=/run", *command, "--rootless"]


def _podman(folder: Path) -> list[str]:
    return [
        "podman", "--root", f"{folder}/data", "--runroot", f"{folder}/run/r",
        "system", "service", "--time=0", f"unix://{folder}/s",
    ]  # fmt: skip


def _podman_settings() -> str:
    """Return a ``containers.conf``; the bounds are for root that may not raise its own."""
    most = int(Path("/proc/sys/kernel/pid_max").read_text("ascii"))
    files, processes = (
        resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
    )
    processes = most if processes == resource.RLIM_INFINITY else min(processes, most)
    files = 1 << 20 if files == resource.RLIM_INFINITY else files
    return f"""\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
