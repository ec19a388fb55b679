"""A small release with provenance, and an engine that makes it again (or something else)."""

from __future__ import annotations

import copy
import io
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tflite_files import fixture
from toy_container import OK, Container, Doorman
from toy_project import SEALED, make_project

from kiln.core.deterministic_tar import TarEntry, deterministic_tar
from kiln.core.digest import sha256_bytes
from kiln.core.machine import cpu_name
from kiln.core.store import Store
from kiln.project.closures import StageCode, read_stage_code
from kiln.project.folders import Project
from kiln.recipes.steps import Fact, Files, Output, Plan, StepList
from kiln.reproduce.recorded import Recorded
from kiln.reproduce.rerun import Reproducer
from kiln.reproduce.targets import recorded_in
from kiln.reproduce.verdict import Verdict
from kiln.running.limits import Outcome
from kiln.signing import dsse
from kiln.signing.keys import SigningKey, load_or_create_key
from kiln.signing.statement_names import (
    BUILD_TYPE,
    PROVENANCE_TYPE,
    STATEMENT_TYPE,
    provenance_path,
)
from kiln.statements.plan_data import plan_as_data

WEIGHTS, LABELS, IMAGE = b"weights", b"item { id: 1 name: 'cat' }\n", b"a photograph"
ADDRESS = "file:///nowhere/toy.tar.gz"
REPOSITORY = "git+https://code.example/kiln"
COMMIT = "c" * 40


def made(variant: str) -> bytes:
    """What the stages make for a variant: a whole ``.tflite``."""
    return fixture("toy_ssd") + variant.encode()


def outputs(stage: str, variant: str) -> dict[str, bytes]:
    """What a stage makes."""
    return {
        "export": {"saved_model/saved_model.pb": b"a graph"},
        "convert": {"model.tflite": b"bare"},
        "annotate": {"model.tflite": made(variant)},
    }[stage]


@dataclass
class ToyRelease:
    """``dist/toy`` with two variants; every part of it can be spoilt before it is written."""

    root: Path
    model: str = "toy"
    variants: Sequence[str] = ("float32", "int8")
    edit: Callable[[dict[str, Any]], object] = lambda statement: None
    params: Mapping[str, Any] = field(default_factory=lambda: {"exact_batch_norm": True})
    source: bytes = b""
    code: StageCode | None = None

    def __post_init__(self) -> None:
        self.project = Project(self.root / "released")
        if not self.project.docker.exists():
            make_project(self.project.root)
        self.key: SigningKey = load_or_create_key(self.root / "key.pem")
        self.folder = self.root / "dist" / self.model
        self.source = self.source or self.archive()
        self.plan = self._plan()

    def archive(self) -> bytes:
        """The source archive."""
        out = io.BytesIO()
        entries = [
            TarEntry(path.relative_to(self.project.root).as_posix(), path)
            for path in sorted(self.project.docker.rglob("*"))
            if path.is_file()
        ]
        deterministic_tar(out, entries, mtime=0)
        return out.getvalue()

    def _plan(self) -> Plan:
        code = self.code or read_stage_code(self.project.stages)
        steps = StepList(SEALED.identity, code)
        checkpoint = Files({"ckpt-0.data": sha256_bytes(WEIGHTS)})
        labels = Files({"": sha256_bytes(LABELS)})
        steps.add("export", "export", self.params, {"checkpoint": checkpoint})
        for variant in self.variants:
            inputs: dict[str, Files | Output] = {"saved_model": Output("export", "saved_model")}
            if variant == "int8":
                inputs["images"] = Files({"cat.png": sha256_bytes(IMAGE)})
            steps.add(f"convert-{variant}", "convert", {"variant": variant}, inputs)
            steps.add(
                f"annotate-{variant}",
                "annotate",
                {"variant": variant},
                {"model": Output(f"convert-{variant}", "model.tflite"), "label_map": labels},
                {"num_classes": Fact("export", "num_classes")},
            )
        artefacts = {variant: f"annotate-{variant}" for variant in self.variants}
        ordered = tuple(steps.steps.values())
        return Plan(self.model, "odapi", ordered, artefacts, (), SEALED.identity, code)

    def file(self, variant: str) -> str:
        return f"{self.model}_{variant}.tflite"

    def statement(self, variant: str, content: bytes | None = None) -> dict[str, Any]:
        """The provenance of a variant, before ``edit``."""
        digest = sha256_bytes(made(variant) if content is None else content)
        return {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": self.file(variant), "digest": {"sha256": digest}}],
            "predicateType": PROVENANCE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "recipe": {
                            "path": "models/toy/recipe.toml",
                            "sha256": "0" * 64,
                            "text": "",
                        },
                        "model": self.model,
                        "variant": variant,
                    },
                    "internalParameters": {
                        "plan": plan_as_data(self.plan, f"annotate-{variant}"),
                        "limits": {"memory": 3 << 30, "timeout": 90.0},
                        "host": {"machine": platform.machine(), "cpu": cpu_name()},
                    },
                    "resolvedDependencies": self._materials(),
                },
                "runDetails": {
                    "builder": {"id": "somebody", "version": {"kiln": "1"}},
                    "byproducts": [
                        {
                            "name": "conversion.json",
                            "digest": {"sha256": sha256_bytes(self.record())},
                        }
                    ],
                },
            },
        }

    def _materials(self) -> list[dict[str, Any]]:
        dockerfile = (self.project.docker / "odapi" / "Dockerfile").read_bytes()
        return [
            {"name": "image/odapi", "digest": {"sha256": SEALED.identity.removeprefix("sha256:")}},
            {
                "name": "lock/docker/odapi/Dockerfile",
                "digest": {"sha256": sha256_bytes(dockerfile)},
            },
            {"name": "source.tar", "digest": {"sha256": sha256_bytes(self.source)}},
            {"name": "source/archive", "uri": ADDRESS, "digest": {"sha256": "d" * 64}},
            {"name": "repository", "uri": REPOSITORY, "digest": {"gitCommit": COMMIT}},
        ]

    def record(self) -> bytes:
        """``conversion.json``, with what every step made."""
        stages = {}
        for step in self.plan.steps:
            files = outputs(step.stage, str(step.params.get("variant")))
            digests = {name: sha256_bytes(data) for name, data in files.items()}
            stages[step.id] = {"key": step.key, "files": digests}
        return json.dumps({"stages": stages}).encode()

    def write(self) -> Path:
        """The release folder."""
        for variant in self.variants:
            statement = copy.deepcopy(self.statement(variant))
            self.edit(statement)
            place = self.folder / provenance_path(self.file(variant))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(dsse.seal(statement, self.key))
            (self.folder / self.file(variant)).write_bytes(made(variant))
        (self.folder / "source.tar").write_bytes(self.source)
        (self.folder / "conversion.json").write_bytes(self.record())
        return self.folder.parent

    def provenance(self, variant: str) -> Path:
        """Where the provenance of a variant is."""
        return self.folder / provenance_path(self.file(variant))

    def read(self) -> list[Recorded]:
        """What the written release records, its signatures verified."""
        return recorded_in(
            self.folder.parent,
            lambda data, model, name: dsse.open_bundle(data, self.key.public_pem, name),
        )


def play(container: Container) -> Outcome | None:
    """Every stage asked for, as it went when the release was made."""
    for stage in container.request["stages"]:
        files = outputs(stage["stage"], str(stage["params"].get("variant")))
        container.finish(stage["id"], files, num_classes=1)
    return None


@dataclass
class Machine:
    """A machine that reproduces: a store, an engine's stand-in, and what was told."""

    root: Path
    play: Callable[[Container], Outcome | None] = play
    with_inputs: bool = True
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.root / "store")
        if self.with_inputs:
            for content in (WEIGHTS, LABELS, IMAGE):
                self.store.add_bytes(content)
        self.door = Doorman(lambda container: self.play(container) or OK)

    def reproducer(self, **options: Any) -> Reproducer:
        """One whose engine holds every image."""

        def tell(event: str, **fields: Any) -> None:
            self.events.append({"event": event, **fields})

        options = {"checkout": None, "fetch": False, **options}
        made = Toy(self.store, on_event=tell, **options)
        made._engine.append(self.door)  # type: ignore[arg-type]
        return made

    def run(self, release: ToyRelease, **options: Any) -> dict[str, Verdict]:
        """The verdicts by file."""
        verdicts = self.reproducer(**options).run(release.read())
        return {verdict.recorded.file: verdict for verdict in verdicts}

    def notes(self) -> list[str]:
        return [event["message"] for event in self.events if event["event"] == "note"]


def outcomes(verdicts: Mapping[str, Verdict]) -> dict[str, str]:
    """What came of each file."""
    return {file: verdict.outcome for file, verdict in verdicts.items()}


class Toy(Reproducer):
    """One whose engine holds every image."""

    def _image(self, docker: Path, name: str) -> str:
        return f"{name}:1"


def emptied(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
