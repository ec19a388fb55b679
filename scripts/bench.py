"""``make bench``: kiln beside the hand-written way, in the same image, in one run.

The hand-written way is what the notebooks do: the package's export command, then one conversion
process and one metadata process for each variant (scripts/baseline/). Both start from the same
checkpoint and run in the same sealed image; they take turns, so that a slow moment of the machine
hits both. Figures are medians; the ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.build import Builder
from kiln.engine import Engine
from kiln.errors import KilnError
from kiln.images import definition as definitions
from kiln.images.builder import Images
from kiln.images.lock import locked_image
from kiln.limits import Limits
from kiln.project import Project
from kiln.recipe import VARIANTS, discover
from kiln.store import Store
from kiln.ui import table

SAMPLE = "ssd_mobilenet_v2_oidv4"
MODEL = "bench_ssd"
KILN = Path(sys.executable).parent / "kiln"
BASELINE = Path(__file__).resolve().parent / "baseline"


@dataclass(frozen=True)
class Run:
    """One measured run: wall time in seconds and the largest process's memory in bytes."""

    seconds: float
    peak: int


@dataclass(frozen=True)
class Bench:
    """What every measurement needs."""

    project: Project
    engine: Engine
    image: str
    folder: Path

    def by_kiln(self, variants: Sequence[str]) -> Run:
        """``kiln build`` with an empty store, as a user runs it."""
        for name in ("store", "dist"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.kiln_again(variants)

    def kiln_again(self, variants: Sequence[str]) -> Run:
        """``kiln build`` with whatever the store holds."""
        command = [str(KILN), "build", MODEL, "--json", "--models-dir", str(self.folder / "models"),
                   "--dist", str(self.folder / "dist")]  # fmt: skip
        for variant in variants:
            command += ["--variant", variant]
        environment = {**os.environ, "KILN_STORE": str(self.folder / "store")}
        environment["KILN_PROJECT"] = str(self.project.root)
        start = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
        events = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode != 0:
            raise SystemExit(f"bench: kiln build failed: {events[-1:]}")
        peaks = [event["peak_rss"] for event in events if event.get("state") == "finished"]
        return Run(seconds, max(peaks, default=0))

    def by_hand(self, variants: Sequence[str]) -> Run:
        """Export command, then a conversion and a metadata process for each variant."""
        lines = [
            "set -e",
            "mkdir -p /tmp/checkpoint && cp /in/model/checkpoint/* /tmp/checkpoint/",
            "python /kiln/stages/export.py --pipeline_config_path /in/model/pipeline.config "
            "--trained_checkpoint_dir /tmp/checkpoint --output_directory /tmp/export "
            "--max_detections 100",
        ]
        for variant in variants:
            lines += [
                f"python /kiln/stages/convert.py /tmp/export/saved_model /tmp/{variant}.tflite "
                f"{variant} /in/images",
                f"/opt/metadata/bin/python /kiln/stages/metadata.py /tmp/{variant}.tflite "
                f"/in/labels.txt /out/{variant}.tflite",
            ]
        output = bytearray()
        out = self.folder / "hand-out"
        out.mkdir(exist_ok=True)
        out.chmod(0o777)
        start = time.monotonic()
        outcome = self.engine.run(
            self.image,
            ["/bin/sh", "-c", "\n".join(lines)],
            mounts={
                self.folder / "in": ("/in", "ro"),
                BASELINE: ("/kiln/stages", "ro"),
                out: ("/out", "rw"),
            },
            environment={"BASELINE": "1"},
            limits=Limits(),
            on_stdout=output.extend,
            user="1000:1000",
        )
        seconds = time.monotonic() - start
        if outcome.exit_code != 0:
            raise SystemExit(f"bench: the hand-written way failed:\n{outcome.log[-3000:]}")
        peaks = [int(line.split()[1]) for line in output.decode().splitlines()
                 if line.startswith("peak ")]  # fmt: skip
        return Run(seconds, max(peaks))


def prepare(project: Project, folder: Path, engine: Engine, image: str) -> Bench:
    """The sample's checkpoint as a zoo-layout archive with a recipe, and as plain files."""
    recipes = discover(project.models)
    store = Store(Store.default_root())
    builder = Builder(project, project.models, store, folder / "prepared", lambda *_, **__: None)
    (done,) = builder.build([SAMPLE], recipes, ["dynamic"])
    if done.error is not None:
        raise done.error
    record = json.loads((folder / "prepared" / SAMPLE / "conversion.json").read_text())
    files = record["stages"]["checkpoint"]["files"]
    store.materialize(files, folder / "in", link=False)
    sample = project.models / "samples" / SAMPLE
    images = project.models / "samples" / "images"
    shutil.copytree(images, folder / "in" / "images")
    shutil.copy(folder / "prepared" / SAMPLE / "labelmap.txt", folder / "in" / "labels.txt")
    models = folder / "models" / MODEL
    models.mkdir(parents=True)
    shutil.copytree(images, folder / "models" / "images")
    shutil.copy(sample / "label_map.pbtxt", models / "label_map.pbtxt")
    archive = models / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "in" / "model", arcname="bench")
    (models / "recipe.toml").write_text(
        f'schema = 1\nname = "{MODEL}"\ntitle = "bench"\ndescription = "bench"\n'
        'licence = "Apache-2.0"\nauthor = "bench"\nversion = "1"\narchitecture = "ssd"\n'
        'image = "odapi"\nvariants = ["dynamic", "float32", "float16", "int8"]\n'
        f'[source]\nkind = "archive"\nurl = "{archive.as_uri()}"\nroot = "bench"\n'
        'checkpoint = "checkpoint"\npipeline_config = "pipeline.config"\n'
        '[labels]\nfile = "label_map.pbtxt"\n[calibration]\nimages = "../images"\n'
    )
    return Bench(project, engine, image, folder)


def take_turns(rounds: int, ways: Mapping[str, Callable[[], Run]]) -> dict[str, list[Run]]:
    """Run every way once per round, in turn."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            runs[name].append(way())
            print(f"  round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s",
                  file=sys.stderr, flush=True)  # fmt: skip
    return runs


def compared(what: str, runs: dict[str, list[Run]], bound: float) -> list[dict[str, Any]]:
    """Rows for time and memory: kiln, by hand, ratio, and the bound the ratio should keep."""
    kiln, hand = runs["kiln"], runs["by hand"]
    seconds = [statistics.median(run.seconds for run in way) for way in (kiln, hand)]
    ratios = sorted(a.seconds / b.seconds for a, b in zip(kiln, hand, strict=True))
    peaks = [max(run.peak for run in way) / 2**20 for way in (kiln, hand)]
    return [
        {"what": f"{what}, wall s", "kiln": seconds[0], "other": seconds[1],
         "ratio": statistics.median(ratios), "bound": bound, "spread": [ratios[0], ratios[-1]]},
        {"what": f"{what}, peak MiB", "kiln": peaks[0], "other": peaks[1],
         "ratio": peaks[0] / peaks[1], "bound": 1.0},
    ]  # fmt: skip


def cold_images(project: Project, engine: Engine) -> list[dict[str, Any]]:
    """Build every image from wheels at hand, without any cache; seconds by phase."""
    store = Store(Store.default_root())
    images = Images(project.docker, lambda: engine, store)
    rows: list[dict[str, Any]] = []
    for name in definitions.load(project.docker):
        built = images.build(name)
        images.check(built, locked_image(project.docker, name))
        seconds = built.seconds["build"] + built.seconds["seal"]
        rows.append({"what": f"image {name}: cold build and seal, s", "kiln": seconds})
    return rows


def plain_install(project: Project, folder: Path) -> list[dict[str, Any]]:
    """The odapi image's size beside a plain installation of the same requirements.

    Plain: what is asked for by name (requirements.in, metadata.in) with every requirement the
    packages declare, only the two pins that contradict each other overridden, as pip would
    unpack it: no ``.pyc``, nothing left out. uv resolves, because pip does not come to an end.
    """
    size = locked_image(project.docker, "odapi").size - locked_image(project.docker, "base").size
    uv = Path(sys.executable).parent / "uv"
    overrides = folder / "overrides.txt"
    overrides.write_text("protobuf==3.20.3\npyparsing==2.4.7\n")
    total = 0
    for name in ("requirements", "metadata"):
        lock, target = folder / f"{name}.txt", folder / f"plain-{name}"
        common = [
            "--python-version",
            "3.9",
            "--python-platform",
            "x86_64-manylinux_2_31",
            "--quiet",
        ]
        subprocess.run(
            [uv, "pip", "compile", project.docker / "odapi" / f"{name}.in", "--override", overrides,
             *common, "--exclude-newer", "2026-11-01", "--output-file", lock],
            check=True,
        )  # fmt: skip
        subprocess.run(
            [uv, "pip", "install", "--no-deps", "--target", target, "--requirement", lock,
             "--no-cache", *common],
            check=True,
        )  # fmt: skip
        total += sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        shutil.rmtree(target)
    return [{"what": "odapi environments, MB", "kiln": size / 1e6, "other": total / 1e6,
             "ratio": size / total}]  # fmt: skip


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a table; ``!`` marks a ratio over its bound."""
    lines = []
    for row in rows:
        ratio, bound = row.get("ratio"), row.get("bound")
        over = ratio is not None and bound is not None and ratio > bound
        lines.append([
            row["what"],
            f"{row['kiln']:.2f}",
            f"{row['other']:.2f}" if "other" in row else "",
            f"{ratio:.2f}" if ratio is not None else "",
            f"{'!' if over else ''}<= {bound}" if bound is not None else "",
        ])  # fmt: skip
    return table(["", "kiln", "other", "ratio", "bound"], lines)


def main() -> None:
    """Measure and print; exit code 1 when a ratio is over its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times each way is run [3]")
    parser.add_argument("--skip-images", action="store_true", help="leave image builds out")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args()
    try:
        rows = measure(arguments.rounds, images=not arguments.skip_images)
    except KilnError as error:
        raise SystemExit(f"bench: {error}") from error
    if arguments.json:
        print(json.dumps({"machine": platform.processor(), "cpus": os.cpu_count(), "rows": rows}))
    else:
        print(show(rows))
    sys.exit(any(r.get("ratio", 0) > r.get("bound", float("inf")) for r in rows))


def measure(rounds: int, *, images: bool) -> list[dict[str, Any]]:
    """All figures, in order."""
    project, engine = Project.find(), Engine.find()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kiln-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        sealed = Images(project.docker, lambda: engine, Store(Store.default_root()))
        bench = prepare(project, folder, engine, sealed.ensure("odapi").tag)
        every, one = list(VARIANTS), ["dynamic"]
        four = {"kiln": lambda: bench.by_kiln(every), "by hand": lambda: bench.by_hand(every)}
        rows += compared("four variants", take_turns(rounds, four), 0.6)
        single = {"kiln": lambda: bench.by_kiln(one), "by hand": lambda: bench.by_hand(one)}
        rows += compared("one variant", take_turns(rounds, single), 1.1)
        bench.by_kiln(every)
        again = [bench.kiln_again(every).seconds for _ in range(5)]
        rows.append({"what": "nothing changed, wall s", "kiln": statistics.median(again)})
        if images:
            rows += plain_install(project, folder)
            rows += cold_images(project, engine)
    return rows


if __name__ == "__main__":
    main()
