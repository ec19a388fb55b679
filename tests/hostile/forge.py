"""Whole builds that take seconds: all of kiln is real, only the stages give again what was given.

A sample is built once with its real stages. Then a copy of the project gets stage code that lays
out those results (``guest/replay.py``): plan, container, taking, store, publishing and signing are
kiln's own, and every build must come to the same artefacts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from event_reader import EventReader
from places import ROOT

from hostile.cases import FindingError, busy
from hostile.commands import exit_codes
from hostile.engines import containers_of, remove
from hostile.stage_output import GUEST

SAMPLE, VARIANT = "centernet_mobilenet_v2_fpn_shapes", "dynamic"
#: Bytes above which a recorded content becomes a stand-in, if no reader of the driver's needs it.
_LARGE = 200_000
#: Seconds that each replayed stage takes.
PAUSE = 0.15
#: Seconds that an undisturbed build may take on a busy machine.
PATIENCE = 120.0


@dataclass(frozen=True)
class Ended:
    """A ``kiln`` process that has ended."""

    code: int
    events: tuple[dict[str, Any], ...]
    err: str
    pid: int
    seconds: float

    @property
    def told(self) -> str:
        """Its last words."""
        said = [e for e in self.events if e.get("event") in ("error", "failed")]
        return f"exit {self.code}: {said[-1:]} {self.err[-1500:]}"


@dataclass(frozen=True)
class Bench:
    """``kiln build`` of the replayed sample with folders of its own.

    Attributes:
        prefix: put before the command.
        environment: besides the usual.
    """

    project: Path
    store: Path
    dist: Path
    home: Path
    tmp: Path
    engine: str
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable

    def but(self, **changes: Any) -> Bench:
        """The same with something otherwise."""
        return replace(self, **changes)

    def start(self, *arguments: str | Path) -> Running:
        """Start a command with ``--json``."""
        command = [*self.prefix, self.python, "-m", "kiln.cli", *map(str, arguments), "--json"]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "PYTHONPATH": str(ROOT / "scripts"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DOCKER_HOST": self.engine,
            "KILN_PROJECT": str(self.project),
            "KILN_STORE": str(self.store),
            **self.environment,
        }
        process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                cwd=self.project,
                env=environment,
                start_new_session=True,
            )  # fmt: skip
        return Running(process)

    def start_build(self) -> Running:
        """Start a build."""
        return self.start("build", SAMPLE, "--variant", VARIANT, "--dist", self.dist)

    def build(self, seconds: float = PATIENCE) -> Ended:
        """A build, to its end."""
        return self.start_build().end(seconds)


class Running:
    """A command under way; its events are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.started = time.monotonic()
        self._reader = EventReader(process)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Those that came so far."""
        return self._reader.events

    def wait_for(self, seconds: float, **wanted: Any) -> bool:
        """Whether an event with these fields came before the end and within this time."""
        return self._reader.wait_for(seconds, **wanted) is not None

    def signal(self, number: int) -> None:
        """Send the process, and it alone, a signal; it may be gone already."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end(self, seconds: float = PATIENCE) -> Ended:
        """Wait for the end.

        Raises:
            FindingError: it does not come within ``seconds``, or with a traceback, or with a code
                of nobody's.
        """
        try:
            code = self.process.wait(seconds * busy())
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise FindingError(
                f"not ended after {seconds:.0f} s; last event {self.events[-1:]}"
            ) from None
        finally:
            err = self._reader.finish()
        seconds = time.monotonic() - self.started
        ended = Ended(code, tuple(self.events), err, self.process.pid, seconds)
        if "Traceback (most recent call last)" in ended.err:
            raise FindingError(f"a traceback:\n{ended.err[-2500:]}")
        if code >= 0 and code not in exit_codes():
            raise FindingError(f"a code of nobody's: {ended.told}")
        return ended


@dataclass(frozen=True)
class Forge:
    """The project of replayed stages, and what its builds come to.

    Attributes:
        files: path below the model's folder -> SHA-256; of those that are signed anew at each
            build only the name counts.
        seconds: what a build takes here.
    """

    project: Path
    engine: str
    home: Path
    files: Mapping[str, str]
    seconds: float

    @classmethod
    def open(cls, folder: Path, engine: str, store: Path | None = None) -> Forge:
        """Build the sample with its real stages and then once with replayed ones.

        Args:
            folder: new; everything goes below it.
            store: where the sample's results may be already.
        """
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        real = Bench(ROOT, store or folder / "store", folder / "real", folder / "home",
                     folder / "tmp", engine)  # fmt: skip
        ended = real.build(1800)
        if ended.code:
            raise FindingError(f"the sample cannot be built: {ended.told}")
        _record(folder / "project", real)
        replayed = real.but(
            project=folder / "project", store=folder / "first", dist=folder / "dist"
        )
        ended = replayed.build()
        if ended.code:
            raise FindingError(f"the replayed sample cannot be built: {ended.told}")
        shutil.rmtree(folder / "first")
        return cls(
            folder / "project", engine, folder / "home", _digests(folder / "dist" / SAMPLE),
            ended.seconds,
        )  # fmt: skip

    def bench(self, place: Path) -> Bench:
        """A bench with empty folders below ``place``."""
        place.chmod(0o755)
        for name in ("tmp", "home"):
            (place / name).mkdir()
        shutil.copytree(self.home / ".config", place / "home" / ".config")
        return Bench(
            self.project, place / "store", place / "dist", place / "home", place / "tmp",
            self.engine,
        )  # fmt: skip

    def check_visible(self, bench: Bench) -> None:
        """What dist shows is absent or complete, and its artefact is the right one.

        Raises:
            FindingError: something half-made is there.
        """
        folder = bench.dist / SAMPLE
        if folder.exists():
            _compare(_digests(folder), self.files)

    def check_healed(self, bench: Bench, *ended: Ended) -> None:
        """A normal build repairs everything: right digests, signed, nothing left anywhere.

        Args:
            ended: processes before it, of which no container may be left.

        Raises:
            FindingError: it does not.
        """
        self.check_visible(bench)
        build = bench.build()
        if build.code:
            raise FindingError(f"the next build fails: {build.told}")
        _compare(_digests(bench.dist / SAMPLE), self.files)
        verified = bench.start("verify", bench.dist).end()
        if verified.code:
            raise FindingError(f"what was built does not verify: {verified.told}")
        self._check_left(bench, [*ended, build])

    def _check_left(self, bench: Bench, ended: Sequence[Ended]) -> None:
        # A build with nothing to do does not ask for an engine; `kiln clean` always does.
        bench.start("clean").end()
        for one in ended:
            left = containers_of(bench.engine, one.pid)
            if left:
                remove(bench.engine, left)
                raise FindingError(f"containers are left: {left}")
        places = [bench.store / "tmp", bench.tmp]
        found = [str(path) for place in places if place.is_dir() for path in place.iterdir()]
        found += [str(path) for path in bench.dist.rglob(".*")]
        found += [str(path) for path in bench.store.rglob("*.aside")]
        if found:
            raise FindingError(f"left behind: {found[:5]}")
        for path in (bench.store / "blobs" / "sha256").glob("??/*"):
            if _sha256(path) != path.name:
                raise FindingError(f"a damaged blob is in the store: {path}")


def _record(project: Path, real: Bench) -> None:
    """The project with stages that give again what ``real``'s build gave."""
    for name in ("docker", "models"):
        ignore = shutil.ignore_patterns("__pycache__", "training", "ssd_*", "efficientdet_*")
        shutil.copytree(ROOT / name, project / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", project)
    stages = project / "docker" / "stages"
    for name in ("__main__.py", "plain.py", "replay.py"):  # the rest serves the driver, too
        shutil.copy(GUEST / name, stages)
    about = {"module": "replay", "function": "replay", "arguments": {"pause": PAUSE}}
    (stages / "case.json").write_text(json.dumps(about), "utf-8")
    record = json.loads((real.dist / SAMPLE / "conversion.json").read_text("utf-8"))
    for step, made in record["stages"].items():
        folder = stages / "recorded" / step
        (folder / "files").mkdir(parents=True)
        for name, digest in made["files"].items():
            data = (real.store / "blobs" / "sha256" / digest[:2] / digest).read_bytes()
            if len(data) > _LARGE and not step.startswith("annotate"):
                data = hashlib.sha256(data).digest() * 30
            (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "files" / name).write_bytes(data)
        report = {"status": "ok", "facts": made["facts"], "seconds": PAUSE, "peak_rss": 1}
        (folder / "result.json").write_text(json.dumps(report), "utf-8")
    for place, _, names in os.walk(project):
        Path(place).chmod(0o755)
        for name in names:
            (Path(place) / name).chmod(0o644)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """Path -> SHA-256; the name alone of what differs from build to build."""
    return {
        path.relative_to(folder).as_posix(): _sha256(path)
        if path.suffix in {".tflite", ".txt", ".jpg"}
        else ""
        for path in folder.rglob("*")
        if path.is_file()
    }


def _compare(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    if found != wanted:
        differing = sorted(
            name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
        )
        raise FindingError(f"dist shows something else: {differing[:10]}")


@contextlib.contextmanager
def finishing(running: Running) -> Iterator[Running]:
    """Kill a command at the end if it still runs."""
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
