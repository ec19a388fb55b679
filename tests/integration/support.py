"""What the integration tests share: running kiln as a user does, and stages as kiln does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from event_reader import EventReader
from patience import PATIENCE
from places import ROOT

from kiln.core.digest import key_of
from kiln.core.lease import is_abandoned
from kiln.core.stage_result import StageResult
from kiln.core.store import Store
from kiln.images.lock import Locked
from kiln.project.closures import read_stage_code
from kiln.recipes.check_steps import RUNTIMES
from kiln.recipes.plan import Files, Output, Plan, Step
from kiln.recipes.recipe import Recipe
from kiln.running.engine import OWNER_LABEL, Engine
from kiln.running.executor import Runner
from kiln.running.limits import limits_of

EXTRA_STAGES = Path(__file__).parent / "extra_stages"
SAMPLE = "ssd_mobilenet_v2_oidv4"
#: Every embedded sample, with the side of its input in pixels.
SAMPLES = {
    SAMPLE: 300,
    "centernet_mobilenet_v2_fpn_shapes": 256,
    "efficientdet_lite0_shapes": 320,
}
VARIANTS = ("dynamic", "float32", "float16", "int8")
#: What every release has beside its models.
FRONT = ("SHA256SUMS", "index.html", "kiln.pub", "release.sigstore.json")
#: What every model's folder has beside its artefacts, their statements and previews.
RECORDS = (
    "checks.json", "conversion.json", "labelmap.txt", "model.sig", "sbom.cdx.json",
    "sbom.device.cdx.json", "source.tar",
)  # fmt: skip


# --- kiln as a command -----------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """A kiln process that has ended; ``seconds`` of wall time."""

    code: int
    out: str
    err: str
    pid: int
    seconds: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    def ok(self) -> Ended:
        """This, after making sure that it succeeded."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self

    def refused(self, code: int, *words: str) -> str:
        """The message of a failure: exit ``code``, told once, holding ``words``, no traceback."""
        assert self.code == code, f"exit code {self.code}, not {code}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err + self.out, self.err
        told = [line for line in self.err.splitlines() if line.startswith("kiln: ")]
        assert len(told) == 1, self.err
        message = self.err[self.err.index("kiln: ") :]
        reason = told[0].removeprefix("kiln: ")
        assert self.err.count(reason) == 1, f"told more than once:\n{self.err}"
        for word in words:
            assert word in message, f"{word!r} is not in:\n{message}"
        assert len(message.strip().splitlines()) >= 2, f"no remedy:\n{message}"
        return message


@dataclass(frozen=True)
class Kiln:
    """The command with a checkout, a store, a dist folder and a home of its own.

    Args:
        prefix: put before the command (another user, another clock).
        umask: of the process; -1 leaves it.
    """

    project: Path
    store: Path
    dist: Path
    home: Path
    engine: str
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    umask: int = -1

    def environment(self) -> dict[str, str]:
        """Ours (see ``isolation``) without kiln's own settings, with this command's."""
        base = {k: v for k, v in os.environ.items() if not k.startswith("KILN_")}
        return {
            **base,
            "HOME": str(self.home),
            "PYTHONPATH": str(self.project / "scripts"),
            "DOCKER_HOST": self.engine,
            "KILN_PROJECT": str(self.project),
            "KILN_STORE": str(self.store),
            "KILN_PROCESSES": "1",  # two tests run at a time
            **self.env,
        }

    def but(self, **changes: Any) -> Kiln:
        """The same command with some of its fields changed."""
        return replace(self, **changes)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start it with pipes; the caller ends it."""
        command = [*self.prefix, sys.executable, "-m", "kiln.cli", *map(str, arguments)]
        if arguments[0] == "build":
            command += ["--dist", str(self.dist)]
        return subprocess.Popen(
            command,
            env=self.environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=self.umask,
        )

    def __call__(self, *arguments: str | Path, timeout: float = 300) -> Ended:
        """Run it to its end."""
        begin = time.monotonic()
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return Ended(process.returncode, out, err, process.pid, time.monotonic() - begin)

    def leftovers(self) -> list[str]:
        """What is half-made in store or dist, or damaged; empty when all is well."""
        found = []
        if self.store.exists():
            store = Store(self.store)
            # Another process of the tests may be at work in the same store.
            # (so folders may go while they are listed, which is no error here)
            half_made = list(store.tmp.iterdir())
            for folder, _, names in os.walk(self.store):
                half_made += [Path(folder, name) for name in names if name.endswith(".aside")]
            found += [str(path) for path in half_made if is_abandoned(path)]
            found += [f"damaged blob {digest}" for digest in store.verify()]
            for path in (self.store / "results").glob("*.json"):
                if store.get_result(path.stem) is None:
                    found.append(f"half a result {path}")
        if self.dist.exists():
            found += [str(path) for path in self.dist.rglob(".*")]
        return found

    def published(self) -> list[str]:
        """Names of everything below dist but previews and statements about artefacts."""
        if not self.dist.exists():
            return []
        found = (str(p.relative_to(self.dist)) for p in self.dist.rglob("*") if p.is_file())
        return sorted(
            name for name in found if "/previews/" not in name and "/attestations/" not in name
        )


class Running:
    """A build under way whose ``--json`` events are read as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._reader = EventReader(process)

    def wait_for(self, timeout: float = PATIENCE, **wanted: Any) -> dict[str, Any]:
        """The first event with these fields; an error if the process ends without it."""
        event = self._reader.wait_for(timeout, **wanted)
        assert event is not None, f"no event {wanted} in {self._reader.events}"
        return event

    def end(self, timeout: float = PATIENCE) -> Ended:
        """Wait for the process and read the rest of what it says."""
        begin = time.monotonic()
        code = self.process.wait(timeout)
        seconds = time.monotonic() - begin
        err = self._reader.finish()
        out = "".join(json.dumps(event) + "\n" for event in self._reader.events)
        return Ended(code, out, err, self.process.pid, seconds)


@contextmanager
def running(kiln: Kiln, *arguments: str | Path) -> Iterator[Running]:
    """A build with ``--json`` under way; killed at the end if it still is."""
    with kiln.start(*arguments, "--json") as process:
        try:
            yield Running(process)
        finally:
            process.kill()
            process.wait()


def containers_of(engine: Engine, pid: int, *, all: bool = True) -> list[Any]:
    """The containers that the kiln process ``pid`` of this machine made and did not remove."""
    found = engine.client.containers.list(
        all=all, filters={"label": OWNER_LABEL}, ignore_removed=True
    )
    return [item for item in found if item.labels[OWNER_LABEL].startswith(f"{pid}-")]


# --- stages through kiln's own runner --------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """A stage to run: inputs are paths on the host, or ``(id, path)`` of an earlier stage."""

    id: str
    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Path | tuple[str, str]]


@dataclass
class Stages:
    """Runs stages in a sealed image the way a build does, results kept in the store.

    Args:
        code: the folder of stage code; the tests' own stages are in it as well.
        recipe: any recipe; its limits are used.
    """

    engine: Engine
    store: Store
    image: Locked
    code: Path
    recipe: Recipe

    def run(self, *wanted: Wanted) -> dict[str, StageResult]:
        """The results by id; all of it in one container."""
        code = read_stage_code(self.code)
        steps: dict[str, Step] = {}
        for item in wanted:
            inputs: dict[str, Files | Output] = {}
            described: dict[str, Any] = {}
            for name, source in item.inputs.items():
                if isinstance(source, tuple):
                    inputs[name] = Output(*source)
                    described[name] = [steps[source[0]].key, source[1]]
                else:
                    inputs[name] = Files(self._taken(source))
                    described[name] = self._taken(source)
            closure = code.of(item.stage)
            key = key_of(
                {
                    "test": [self.image.identity, closure.digest, item.stage],
                    "params": dict(item.params),
                    "inputs": described,
                }
            )
            steps[item.id] = Step(
                item.id, item.stage, dict(item.params), inputs, {}, key, code=closure
            )
        plan = Plan("integration", "odapi", tuple(steps.values()), {name: name for name in steps})
        runner = Runner(lambda: self.engine, self.store, self.code, lambda *_, **__: None)
        return runner.run(plan, limits_of(self.recipe), lambda: self.image.tag)

    def json(self, result: StageResult, name: str) -> Any:
        """A JSON file of a result."""
        return json.loads(self.store.path(result.files[name].sha256).read_text("utf-8"))

    def model(self, result: StageResult) -> bytes:
        """The ``.tflite`` file of a result."""
        return self.store.path(result.files["model.tflite"].sha256).read_bytes()

    def lay_out(self, result: StageResult, folder: Path) -> Path:
        """All files of a result, as inputs of a stage in another image."""
        self.store.materialize(
            {name: blob.sha256 for name, blob in result.files.items()}, folder, link=False
        )
        return folder

    def gates_in_runtimes(
        self, checked: Mapping[str, tuple[bytes, Path]], params: Mapping[str, Any]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """The gates of today's runtimes, in one container: by name and gate.

        Args:
            checked: by name, an artefact and the folder with what ``check`` found of it.
        """
        wanted = []
        for number, (data, folder) in enumerate(checked.values()):
            model = folder / "artefact.tflite"
            model.write_bytes(data)
            found = {"found": folder / "check.json", "pixels": folder / "pixels"}
            for stage in RUNTIMES:
                given = {"model": model, **found}
                wanted.append(Wanted(f"{stage}-{number}", stage, dict(params), given))
        ran = self.run(*wanted)
        gates = {}
        for number, name in enumerate(checked):
            for stage in RUNTIMES:
                (gate,) = self.json(ran[f"{stage}-{number}"], "check.json")["gates"]
                gates[name, gate["gate"]] = gate
        return gates

    def _taken(self, path: Path) -> dict[str, str]:
        if path.is_file():
            return {"": self.store.add_file(path)}
        return {
            str(file.relative_to(path)): self.store.add_file(file)
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }


def run_mediapipe(
    engine: Engine, device: Locked, code: str, folder: Path, picture: Path
) -> list[list[str]]:
    """What a MediaPipe snippet prints when run beside the artefact, word by word.

    In the image ``device``, with the stages' placeholders for what draws in MediaPipe.
    """
    absent = "from stages.device import mediapipe_tasks\nmediapipe_tasks.load()\n"
    volumes = {
        str(folder): {"bind": "/model", "mode": "ro"},
        str(picture.parent): {"bind": "/pictures", "mode": "ro"},
        str(ROOT / "docker" / "stages"): {"bind": "/kiln/stages", "mode": "ro"},
    }
    printed: bytes = engine.client.containers.run(
        device.tag,
        ["python", "-B", "-c", f"{absent}{code}", f"/pictures/{picture.name}"],
        volumes=volumes,
        working_dir="/model",
        environment={"PYTHONPATH": "/kiln"},
        network_mode="none",
        remove=True,
    )
    return [line.split(" ") for line in printed.decode().splitlines()]


# --- small things ----------------------------------------------------------------------------


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes, [ymin, xmin, ymax, xmax]."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    if height <= 0 or width <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return height * width / (sum(areas) - height * width)


def forget(store: Path, key: str) -> None:
    """Remove a stage's result from a store, under its key and under its content."""

    def said(path: Path) -> dict[str, Any]:
        return {**json.loads(path.read_bytes()), "key": ""}

    wanted = said(store / "results" / f"{key}.json")
    for path in (store / "results").glob("*.json"):
        if said(path) == wanted:
            path.unlink()


def copy_project(target: Path, source: Path = ROOT) -> Path:
    """The parts of the checkout that make kiln, so that edits during a run change nothing."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("docker", "models", "scripts"):
        shutil.copytree(source / name, target / name, ignore=ignore)
    return target


@dataclass(frozen=True)
class Sample:
    """A built sample: its folder in dist, and the command that built it."""

    kiln: Kiln
    folder: Path

    def artefact(self, variant: str) -> Path:
        return self.folder / f"{self.folder.name}_{variant}.tflite"

    @property
    def record(self) -> dict[str, Any]:
        """Its ``conversion.json``."""
        found: dict[str, Any] = json.loads((self.folder / "conversion.json").read_text("utf-8"))
        return found

    def output(self, step: str, prefix: str, target: Path) -> Path:
        """What a step of the build made below ``prefix``, laid out in the folder ``target``."""
        store = Store(self.kiln.store)
        result = store.get_result(self.record["stages"][step]["key"])
        assert result is not None
        files = {
            name.removeprefix(prefix): blob
            for name, blob in result.files.items()
            if name.startswith(prefix)
        }
        store.materialize(files, target, link=False)
        return target
