"""Bad days of the machine: full and read-only disks, clocks, other users, too little memory."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from places import ROOT

from hostile.cases import Case, FindingError, LeftOutError, Verdict
from hostile.disks import mounted, remount
from hostile.forge import Bench, Ended, Forge

#: Who else uses the store.
OTHER = 31_337
#: What a refused build may end with: a store or folder that cannot be used, no space, no engine's
#: word, a stage that could not write, a key that cannot be made.
_REFUSALS = frozenset({2, 21, 24, 27, 30, 31, 40})
_CGROUP = Path("/sys/fs/cgroup/memory")


@dataclass
class Machines:
    """The family of bad days."""

    forge: Forge
    #: A library that lies about the date; None where there is none.
    faketime: Path | None = None

    name = "machines"
    what = "full disk, no inodes, read-only, another user, clock a year off, little memory"
    weight = 4

    def names(self) -> Sequence[str]:
        return ["full-store", "full-dist", "full-tmp", "no-inodes-store", "no-inodes-dist",
                "read-only-store", "read-only-dist", "read-only-home", "two-users",
                "clock-back", "clock-forward", "memory"]  # fmt: skip

    def run(self, case: Case, place: Path) -> Verdict:
        dice = case.dice()
        bench = self.forge.bench(place)
        way = case.name.replace("-", "_")
        for prefix in ("full", "no_inodes"):
            if way.startswith(prefix):
                return self._small(bench, place, case.name.rpartition("-")[2], prefix, dice)
        if way.startswith("read_only"):
            return self._read_only(bench, case.name.rpartition("-")[2])
        if way.startswith("clock"):
            return self._clock(bench, way, dice)
        if way == "two_users":
            return self._two_users(bench, place)
        return self._memory(bench, dice)

    def _small(
        self, bench: Bench, place: Path, what: str, how: str, dice: random.Random
    ) -> Verdict:
        folder = place / what
        shutil.rmtree(folder, ignore_errors=True)
        size = f"size={dice.randint(64, 8_000)}k,nr_inodes=50k"
        if how == "no_inodes":
            most = {"store": 120, "dist": 40}[what]
            size = f"size=200m,nr_inodes={dice.randint(4, most)}"
        ended: list[Ended] = []
        with mounted(folder, f"mode=755,{size}"):
            # A folder of it, as anybody would use: dist has to be replaceable as a whole.
            inner = folder / "inner"
            with contextlib.suppress(OSError):
                inner.mkdir()
            tight = bench.but(**{what: inner})
            for _ in range(2):
                ended.append(_refused(tight))
                self.forge.check_visible(tight)
            remount(folder, "size=500m,nr_inodes=100k")
            inner.mkdir(exist_ok=True)
            self.forge.check_healed(tight, *ended)
        return Verdict(any(one.code for one in ended), f"exit {ended[0].code}", 2)

    def _read_only(self, bench: Bench, what: str) -> Verdict:
        folder: Path = getattr(bench, what)
        home = folder / ".config"
        kept = {p.relative_to(home): p.read_bytes() for p in home.rglob("*") if p.is_file()}
        with mounted(folder, "mode=755,size=500m"):
            for path, data in kept.items():
                (home / path).parent.mkdir(parents=True, exist_ok=True)
                (home / path).write_bytes(data)
                (home / path).chmod(0o600)
                (home / path).parent.chmod(0o700)
            inner = folder / "inner" if what == "dist" else folder
            inner.mkdir(exist_ok=True)
            stuck = bench.but(**{what: inner})
            remount(folder, "ro")
            ended = _refused(stuck)
            if what != "home" and ended.code == 0:
                raise FindingError(f"a build succeeds though its {what} is read-only")
            remount(folder, "rw")
            self.forge.check_healed(stuck, ended)
        return Verdict(ended.code != 0, f"exit {ended.code}")

    def _clock(self, bench: Bench, way: str, dice: random.Random) -> Verdict:
        if self.faketime is None:
            raise LeftOutError("libfaketime is not at hand")
        days = dice.randint(300, 400)
        when = f"-{days}d" if way == "clock_back" else f"+{days}d"
        lying = bench.but(
            environment={"LD_PRELOAD": str(self.faketime), "FAKETIME": when,
                         "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        )  # fmt: skip
        ended = []
        for one in dice.sample([bench, lying, lying], 3):
            ended.append(one.build())
            if ended[-1].code:
                raise FindingError(f"with the clock at {when}: {ended[-1].told}")
            if dice.random() < 0.5:
                shutil.rmtree(bench.dist)
        self.forge.check_healed(bench, *ended)
        verified = lying.start("verify", bench.dist).end()
        if verified.code:
            raise FindingError(f"with the clock at {when}, verify: {verified.told}")
        return Verdict(False, "healed", 3)

    def _two_users(self, bench: Bench, place: Path) -> Verdict:
        python = _python_of_others()
        other = place / "other"
        for name in ("home", "tmp"):
            (other / name).mkdir(parents=True)
        for path in (other, *other.iterdir()):
            os.chown(path, OTHER, OTHER)
        theirs = bench.but(
            home=other / "home", tmp=other / "tmp", dist=other / "dist", python=python,
            prefix=("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", f"--groups={_group()}"),
            environment={"PYTHONPATH": os.pathsep.join(_paths())},
        )  # fmt: skip
        first = bench.build()
        # Theirs comes second into a store of root's; then root's after whatever they left.
        second = _refused(theirs)
        if second.code == 0:
            self.forge.check_visible(theirs)
        self.forge.check_healed(bench, first, second)
        return Verdict(second.code != 0, f"exit {second.code}", 2)

    def _memory(self, bench: Bench, dice: random.Random) -> Verdict:
        """The kernel kills the driver for its memory, at some moment."""
        with _memory_group(dice.randint(40, 220) << 20) as group:
            tight = bench.but(
                prefix=("sh", "-c", f'echo $$ > "{group}/cgroup.procs"; exec "$@"', "sh")
            )
            ended = tight.build()
        if ended.code not in {0, -9} | _REFUSALS:
            raise FindingError(f"with little memory: {ended.told}")
        self.forge.check_healed(bench, ended)
        return Verdict(ended.code > 0, f"exit {ended.code}, healed")


def _refused(bench: Bench) -> Ended:
    """A build that may succeed or be refused in words."""
    ended = bench.build()
    if ended.code and ended.code not in _REFUSALS:
        raise FindingError(f"ended otherwise than in words: {ended.told}")
    if ended.code and not any(event.get("remedy") for event in ended.events):
        raise FindingError(f"no remedy: {ended.told}")
    return ended


@contextlib.contextmanager
def _memory_group(limit: int) -> Iterator[Path]:
    """A control group of so many bytes, removed at the end."""
    group = _CGROUP / f"hostile-{secrets.token_hex(4)}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise LeftOutError(f"no control group of memory: {error.strerror}") from None
    try:
        yield group
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
            if not group.exists():
                break
            time.sleep(0.1)


def _paths() -> list[str]:
    import sysconfig

    return [str(ROOT / "scripts"), sysconfig.get_path("purelib")]


def _group() -> int:
    socket = Path("/var/run/docker.sock")
    return socket.stat().st_gid if socket.exists() else OTHER


def _python_of_others() -> str:
    """A Python that another user can run and that finds kiln's requirements."""
    if os.geteuid() or shutil.which("setpriv") is None:
        raise LeftOutError("only root can be somebody else")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/{version}"):
        command = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", path, "-B",
                   "-c", "import click, docker, pydantic, model_signing, kiln.cli"]  # fmt: skip
        found = subprocess.run(
            command, cwd="/", capture_output=True, check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(_paths())},
        )  # fmt: skip
        if found.returncode == 0:
            return path
    raise LeftOutError("no Python with kiln's requirements that another user can run")
