"""Run stages on other processors: emulated ones (qemu-user), or one core of this one.

A stage's container is unchanged; only its interpreter is started through a launcher that is
mounted read-only beside the stage code. An emulated processor has other features than the real one
(so libraries choose other code), and its approximate instructions (``rsqrtps``) give other bits,
as another vendor's processor would.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kiln.core.errors import SourceUnavailableError, UsageError
from kiln.core.files import copy_file, remove, write_atomic
from kiln.core.store import Store
from kiln.running.engine import Engine
from kiln.running.limits import Limits, Outcome

PROGRAMS = ("qemu-x86_64-static", "qemu-x86_64")
"""Names of the emulator; only a statically linked one runs inside another image."""

PACKAGES = ("qemu-user-static", "qemu-user")
"""Debian packages with a statically linked one: the first up to Debian 12, later the second."""

SLOWDOWN = 30
"""Factor on the time limit of an emulated stage; a slowdown of 8 to 25 was measured."""

PLACE = "/kiln/launcher"
"""Where a container sees the launcher's folder."""

_METADATA_PYTHON = "/opt/metadata/bin/python"
_REF = "tool"
_REMEDY = (
    "Install it (`apt-get install qemu-user-static` on Debian and Ubuntu), or put a statically "
    "linked qemu-x86_64 on the PATH."
)
_CPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+=-]*")
ONE_CORE = (
    "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Emulator:
    """A statically linked ``qemu-x86_64``, and the version that it states."""

    program: Path
    version: str


def find_emulator(store: Store) -> Emulator:
    """Find the installed emulator, or fetch the one in Debian's package into ``store``.

    Nothing is installed: apt fetches and verifies the package, and only its program is kept.

    Raises:
        SourceUnavailableError: there is none, and none can be fetched.
        UsageError: this is not an x86-64 machine.
    """
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        raise UsageError(
            f"x86-64 processors are compared here, and this machine is {platform.machine()}.",
            "Use an x86-64 machine.",
        )
    for name in PROGRAMS:
        found = shutil.which(name)
        if found is not None and is_static(Path(found)):
            return Emulator(Path(found).resolve(), _version(Path(found)))
    known = store.get_ref(_REF, PROGRAMS[0])
    if known is None or not store.has(known.get("sha256", "")):
        with store.scratch() as scratch:
            program = _from_package(scratch)
            program.chmod(0o755)
            known = {"version": _version(program), "sha256": store.add_file(program)}
        store.set_ref(_REF, PROGRAMS[0], known)
    return Emulator(store.path(known["sha256"]), known["version"])


def is_static(path: Path) -> bool:
    """Whether this is a 64-bit ELF program that needs no dynamic loader."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
        return False

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], "little")

    # The program headers: offset at 32, size of each at 54, how many at 56; each begins with its
    # type. A static-pie program has a dynamic section (2), but no interpreter (3).
    start, size, count = number(32, 8), number(54, 2), number(56, 2)
    return all(number(start + index * size, 4) != 3 for index in range(count))


def _version(program: Path) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\S+)", said.stdout)
    return match[1] if match else "?"


def _from_package(scratch: Path) -> Path:
    """Fetch the emulator with apt and unpack it below ``scratch``."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SourceUnavailableError("There is no qemu-user emulator on this machine.", _REMEDY)
    debs, lists = scratch / "debs", scratch / "lists"
    debs.mkdir()
    (lists / "partial").mkdir(parents=True)
    # The host's package lists first, else separate ones, so that the host is not changed.
    own = [f"Dir::State::Lists={lists}", f"Dir::Cache={scratch / 'cache'}"]
    reason = ""
    for settings in ([], own):
        if settings:
            reason = _apt(["update"], settings, debs)
        for package in PACKAGES:
            reason = _apt(["download", package], settings, debs) or reason
            for deb in debs.glob("*.deb"):
                tree = scratch / package
                subprocess.run(["dpkg-deb", "-x", deb, tree], capture_output=True, check=False)
                deb.unlink()
                for name in PROGRAMS:
                    program = tree / "usr" / "bin" / name
                    if program.is_file() and is_static(program):
                        return program.resolve()
    raise SourceUnavailableError(
        "There is no qemu-user emulator on this machine, and apt cannot fetch one: "
        f"{reason or 'no package holds it'}.",
        _REMEDY,
    )


def _apt(command: list[str], settings: Sequence[str], folder: Path) -> str:
    """Run apt-get in ``folder``; return the last line of its error, or nothing."""
    # Only root can see a scratch folder, so apt must not become its own user there.
    options = [f"-o{setting}" for setting in ("APT::Sandbox::User=root", *settings)]
    done = subprocess.run(
        ["apt-get", "-q", *options, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return said[-1].removeprefix("E:").strip().rstrip(".") if done.returncode and said else ""


def emulated(engine: Engine, emulator: Emulator, cpu: str, folder: Path) -> Engine:
    """Return ``engine`` with an emulated processor, a name of ``qemu-x86_64 -cpu help``.

    Args:
        folder: a new folder for the launcher; must live as long as the engine is used.

    Raises:
        UsageError: the emulator has no such processor.
    """
    open_folder(folder)
    qemu = folder / "qemu"
    # A copy: files in the store are not executable.
    copy_file(emulator.program, qemu, 0o755)
    # The trial program is qemu itself, because it needs no libraries.
    trial: list[str | Path] = [qemu, "-cpu", cpu, qemu, "--version"]
    if (
        not _CPU.fullmatch(cpu)
        or subprocess.run(trial, capture_output=True, check=False).returncode
    ):
        remove(folder)
        raise UsageError(
            f"The emulator (version {emulator.version}) cannot emulate {cpu!r}.",
            "`qemu-x86_64 -cpu help` lists what it can.",
        )
    start = f"exec {PLACE}/qemu -cpu {cpu}"
    # The kernel would run a child of an emulated process on the real processor, so the metadata
    # interpreter needs a launcher too. If both environments are the same, there is no child
    # (stages.protocol.runner), and the variable must still show that.
    write_script(
        folder / "python",
        f"""main=$(command -v python)
own=${{KILN_METADATA_PYTHON:-{_METADATA_PYTHON}}}
if [ "$own" != "$main" ]; then
    export EMULATED_METADATA_PYTHON="$own" KILN_METADATA_PYTHON={PLACE}/metadata-python
fi
{start} "$main" "$@\"""",
    )
    write_script(folder / "metadata-python", f'{start} "$EMULATED_METADATA_PYTHON" "$@"')
    return LaunchedEngine(engine, folder, SLOWDOWN)


def one_core(engine: Engine, folder: Path) -> Engine:
    """Return ``engine`` with all processes on one core; ``folder`` as in :func:`emulated`."""
    open_folder(folder)
    # Children inherit the affinity.
    write_script(folder / "python", f'exec python -c \'{ONE_CORE}\' "$(command -v python)" "$@"')
    return LaunchedEngine(engine, folder, 2)


def open_folder(folder: Path) -> None:
    """Make a folder for a launcher."""
    folder.mkdir()
    folder.chmod(0o755)  # the stage's user must read it, whatever the umask


def write_script(path: Path, line: str) -> None:
    """Write a launcher: a shell script that ends in ``exec``."""
    write_atomic(path, f"#!/bin/sh\n{line}\n".encode(), 0o755)


class LaunchedEngine(Engine):
    """An engine whose containers start their interpreter through a launcher.

    Args:
        folder: holds ``python``.
        slowdown: factor on time limits.
    """

    def __init__(self, engine: Engine, folder: Path, slowdown: int) -> None:
        super().__init__(engine.address, engine.client)
        self._folder, self._slowdown = folder, slowdown

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        mounts: Mapping[Path, tuple[str, str]],
        environment: Mapping[str, str],
        limits: Limits,
        on_stdout: Callable[[bytes], None],
        user: str,
        watch: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run as :meth:`Engine.run` does, with ``command[0]`` (``python``) through the launcher."""
        assert command[0] == "python"
        return super().run(
            image,
            [f"{PLACE}/python", *command[1:]],
            mounts={**mounts, self._folder: (PLACE, "ro")},
            environment=environment,
            limits=replace(limits, timeout=limits.timeout * self._slowdown),
            on_stdout=on_stdout,
            user=user,
            watch=watch,
        )
