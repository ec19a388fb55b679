"""Run the samples' files in many runtimes, and say how far what they find differs.

Each runtime is installed in an environment of its own (``runtimes.toml``), and run as a process
that knows nothing of kiln. Inputs are labelled scenes of each sample's own kind
(:mod:`samples.scene_set`), computed here once. What the first runtime finds is what the others are
compared with.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from kiln.core.errors import StageFailedError
from kiln.core.files import write_atomic
from kiln.core.output import table
from kiln.core.untrusted import parse_toml
from kiln.project.folders import Project
from kiln.recipes.recipe import discover, load
from shared import document_table, program
from stages.detect import detector, matching
from stages.tflite import tflite_model

TARGET = "runtime-table"  # of make
RAW = "raw outputs"
RAW_SAMPLE = "ssd_mobilenet_v2_oidv4"
VARIANTS = ("float32", "float16", "dynamic", "int8")
PICTURES = 20
SURE = 0.3
"""Least score of a detection that is compared."""
EQUAL = 1e-6
_TIMEOUT = 600  # seconds for a file in a runtime

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Runtime:
    """A row of ``runtimes.toml``."""

    name: str
    packages: tuple[str, ...]
    kind: str


@dataclass
class Result:
    """What a runtime made of a file.

    Attributes:
        refused: why it does not run there, in the runtime's words; "" if it does.
        found: by picture, the detections.
    """

    refused: str = ""
    found: list[list[dict[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """Detections of a runtime beside those of the first.

    Attributes:
        objects: how many the first is sure of.
        common: how many of them the other finds, too (the same class, IoU 0.5).
        score: the largest difference of their scores.
        iou: the least overlap.
    """

    objects: int
    common: int
    score: float
    iou: float

    def words(self) -> str:
        """Say it in a cell of a table."""
        same = f"{self.common} of {self.objects}"
        if self.common == self.objects and self.score <= EQUAL and self.iou >= 1 - EQUAL:
            return f"equal ({same})"
        return f"{same}, score {self.score:.2g}, IoU {self.iou:.2f}"


def difference(first: Result, other: Result) -> Difference:
    """Compare what two runtimes found in the same pictures."""
    objects = common = 0
    score, iou = 0.0, 1.0
    for one, two in zip(first.found, other.found, strict=True):
        sure = [item for item in one if item["score"] >= SURE]
        objects += len(sure)
        for pair in matching.match(sure, two, matching.SAME_OBJECT):
            common += 1
            score = max(score, abs(sure[pair.left]["score"] - two[pair.right]["score"]))
            iou = min(iou, pair.iou)
    return Difference(objects, common, score, iou)


class Answers:
    """An interpreter that gives outputs which another process computed."""

    def __init__(self, data: bytes, outputs: Sequence[Any]) -> None:
        graph = tflite_model.read(data).graph
        self._outputs = dict(zip(graph.outputs, outputs, strict=True))
        self._input, self._tensors = graph.inputs[0], graph.tensors

    def get_input_details(self) -> list[dict[str, Any]]:
        """Describe the input."""
        return [{"index": self._input}]

    def get_output_details(self) -> list[dict[str, Any]]:
        """Describe the outputs, in the order of the graph."""
        return [self._detail(index) for index in self._outputs]

    def set_tensor(self, index: int, values: Any) -> None:
        """Do nothing: the input has been fed."""

    def invoke(self) -> None:
        """Do nothing: it has been run."""

    def get_tensor(self, index: int) -> Any:
        """Return an output."""
        return self._outputs[index].reshape(self._tensors[index].shape)

    def _detail(self, index: int) -> dict[str, Any]:
        said = self._tensors[index].quantization
        scale = (said.scale[0], said.zero_point[0]) if said and said.scale else (0.0, 0)
        return {"index": index, "quantization": scale, "shape": self._tensors[index].shape}


@dataclass
class Comparison:
    """Files in runtimes: results by runtime, then by (model, variant)."""

    scratch: Path
    report: Callable[[str], None]
    results: dict[str, dict[tuple[str, str], Result]] = field(default_factory=dict)

    def run(self, runtime: Runtime, files: Mapping[tuple[str, str], Path]) -> None:
        """Run all files in a runtime.

        Raises:
            StageFailedError: it cannot be installed.
        """
        self.report(f"{runtime.name}: installing")
        python = self._installed(runtime)
        self.report(f"{runtime.name}: running {len(files)} files")
        self.results[runtime.name] = {
            key: self._one(python, runtime.kind, key[0], path) for key, path in files.items()
        }

    def _installed(self, runtime: Runtime) -> Path:
        folder = self.scratch / "-".join(sorted(runtime.packages))
        python = folder / "bin" / "python"
        if not python.exists():
            install = [python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
            for command in (
                [sys.executable, "-m", "venv", folder],
                [*install, "--disable-pip-version-check", *runtime.packages],
            ):
                done = _run(*command)
                if done.returncode:
                    raise StageFailedError(
                        f"{runtime.name} cannot be installed: {_last(done.stderr)}",
                        "Its versions are in scripts/proofs/runtimes/runtimes.toml.",
                    )
        return python

    def _one(self, python: Path, kind: str, model: str, path: Path) -> Result:
        data = path.read_bytes()
        values = self._inputs(model, data)
        inputs, outputs = self.scratch / "inputs.npy", self.scratch / "outputs.npz"
        outputs.unlink(missing_ok=True)
        np.save(inputs, values)
        try:
            done = _run(python, "-B", _HERE / "runner.py", kind, path, inputs, outputs)
        except subprocess.TimeoutExpired:
            return Result(f"no answer in {_TIMEOUT} s")
        if done.returncode:
            ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else ""
            return Result(ended or _last(done.stderr))
        with np.load(outputs) as arrays:
            answers = [arrays[name] for name in arrays.files]
        result = Result()
        for number, each in enumerate(values):
            answered = Answers(data, [array[number] for array in answers])
            model_ = detector.Detector(data, make=lambda *_, made=answered: (made, kind))
            result.found.append(model_.read(model_.run(each)))
        return result

    def _inputs(self, model: str, data: bytes) -> Any:
        shown = detector.Detector(data, make=lambda *_: (Answers(data, [None] * _count(data)), ""))
        folder = self.scratch / "scenes" / model / "images"
        pictures = (np.asarray(Image.open(path)) for path in sorted(folder.iterdir()))
        return np.stack([shown.input_values(picture) for picture in pictures])

    def cells(self, runtime: str, model: str) -> list[str]:
        """Make the cells of a row: one for each variant."""
        first = next(iter(self.results.values()))
        cells = []
        for variant in VARIANTS:
            result = self.results[runtime][model, variant]
            if result.refused:
                cells.append("does not run")
            else:
                cells.append(difference(first[model, variant], result).words())
        return cells

    def reasons(self, runtime: str) -> list[str]:
        """List why files do not run in a runtime, each reason once."""
        found = (result.refused for result in self.results[runtime].values())
        return [*dict.fromkeys(reason for reason in found if reason)]

    def documentation(self, models: Sequence[str], seconds: float) -> str:
        """Format the comparison as a Markdown table, with the machine it was made on."""
        lines = [f"| Runtime | Model | {' | '.join(VARIANTS)} |", f"|---|---|{'---|' * 4}"]
        for runtime in self.results:
            for model in models:
                lines.append(f"| {runtime} | {model} | {' | '.join(self.cells(runtime, model))} |")
        lines.append("")
        for runtime in self.results:
            for reason in self.reasons(runtime):
                lines.append(f'- {runtime}: "{_short(reason)}"')
        return "\n".join([*lines, "", f"{document_table.made_here(seconds)}."])


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT)


def _count(data: bytes) -> int:
    return len(tflite_model.read(data).graph.outputs)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}..."


def runtimes() -> tuple[Runtime, ...]:
    """Read ``runtimes.toml``."""
    rows = parse_toml((_HERE / "runtimes.toml").read_bytes())["runtime"]
    return tuple(Runtime(row["name"], tuple(row["packages"]), row["kind"]) for row in rows)


def built(project: Project, scratch: Path) -> dict[tuple[str, str], Path]:
    """Build the samples, and the SSD once more with raw outputs: (model, variant) -> file."""
    recipes = {
        name: path
        for name, path in discover(project.models).items()
        if load(path, project.models).sample
    }
    dist = scratch / "dist"
    _kiln("build", *recipes, "--dist", dist)
    models = scratch / "models"
    shutil.copytree(project.models / "samples", models / "samples")
    recipe = models / "samples" / RAW_SAMPLE / "recipe.toml"
    text = recipe.read_text("utf-8")
    # Layers that stay in float go by names, and a graph without post-processing has others.
    text = re.sub(r"(?s)\n\[int8\]\n.*?(?=\n\[)", "\n", text)
    write_atomic(recipe, f'{text}\n[export]\npostprocess = "none"\n'.encode())
    _kiln("build", RAW_SAMPLE, "--models-dir", models, "--dist", scratch / "raw")
    files = {}
    for name in recipes:
        for variant in VARIANTS:
            files[name, variant] = dist / name / f"{name}_{variant}.tflite"
        scenes(name, scratch / "scenes" / name)
    for variant in VARIANTS:
        path = scratch / "raw" / RAW_SAMPLE / f"{RAW_SAMPLE}_{variant}.tflite"
        files[f"{RAW_SAMPLE}, {RAW}", variant] = path
    shutil.copytree(scratch / "scenes" / RAW_SAMPLE, scratch / "scenes" / f"{RAW_SAMPLE}, {RAW}")
    return files


def scenes(model: str, folder: Path) -> None:
    """Write the pictures for a sample."""
    done = _run(sys.executable, "-m", "samples.scene_set", model, folder, "--count", PICTURES)
    if done.returncode:
        raise StageFailedError(f"No scenes for {model}: {_last(done.stderr)}", "This is a bug.")


def _kiln(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", "kiln.cli", *map(str, arguments)], check=False)
    if done.returncode:
        raise StageFailedError("The samples could not be built.", "See what kiln said above.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, help="Only this runtime, beside the first; repeatable.")
@click.option("--docs", type=click.Path(path_type=Path), help="Write the table into this document.")
@click.option("--json", "as_json", is_flag=True, help="The reasons and differences, as JSON.")
def command(only: tuple[str, ...], docs: Path | None, as_json: bool) -> None:
    """Run the samples' files in runtimes that no image holds."""
    start = time.monotonic()
    first, *others = runtimes()
    chosen = [first, *(row for row in others if not only or row.name in only)]
    with tempfile.TemporaryDirectory(prefix="kiln-runtimes-") as made:
        scratch = Path(made)
        files = built(Project.find(), scratch)
        comparison = Comparison(scratch, lambda line: print(line, file=sys.stderr, flush=True))
        for runtime in chosen:
            comparison.run(runtime, files)
    models = [*dict.fromkeys(model for model, _ in files)]
    if docs is not None:
        text = comparison.documentation(models, time.monotonic() - start)
        document_table.write_table(docs, TARGET, text)
    if as_json:
        print(json.dumps({row.name: comparison.reasons(row.name) for row in chosen}, indent=1))
        return
    rows = [
        [row.name, model, *comparison.cells(row.name, model)] for row in chosen for model in models
    ]
    print(table(["runtime", "model", *VARIANTS], rows))
    for row in chosen:
        for reason in comparison.reasons(row.name):
            print(f"{row.name}: {reason}")


if __name__ == "__main__":
    program.run(command, "runtime-table")
