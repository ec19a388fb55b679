"""Train the weights of an embedded sample again, inside its sealed image.

The samples of CenterNet and EfficientDet are trained on generated scenes by the scripts of
``models/samples/training/``. This runs one of them as a stage runs: no network, read-only inputs,
the image of ``docker/images.lock``. The weights land in ``OUT``; to use them, put ``weights.npz``
into the sample's folder and its SHA-256 into the recipe.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from kiln.cli.reporters import TextReporter
from kiln.core.digest import sha256_file
from kiln.core.errors import StageFailedError, UsageError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.lock import locked_image
from kiln.project.closures import read_stage_code
from kiln.project.folders import Project
from kiln.recipes.plan import make_plan
from kiln.recipes.recipe import discover, load
from kiln.running.engine import Engine
from kiln.running.executor import Runner
from kiln.running.limits import Limits, limits_of
from kiln.running.stage_user import stage_user
from kiln.sources.model import acquire
from shared import program

#: Whose backbone CenterNet's training starts from.
BACKBONE = "ssd_mobilenet_v2_oidv4"

HOURS = 6 * 3600.0
MEMORY = 12 << 30


@dataclass(frozen=True)
class Training:
    """A training script and what it is given (``{sample}``, ``{backbone}``: folders inside)."""

    script: str
    arguments: tuple[str, ...] = ()


TRAININGS = {
    "centernet_mobilenet_v2_fpn_shapes": Training(
        "train_centernet.py",
        ("--oidv4", "{backbone}", "--pipeline-config", "{sample}/pipeline.config"),
    ),
    "efficientdet_lite0_shapes": Training("train_efficientdet.py"),
}


def backbone(project: Project, engine: Engine, store: Store, target: Path) -> Path:
    """The SSD sample's checkpoint, made by its own stage, in the zoo's layout."""
    recipe = load(discover(project.models)[BACKBONE], project.models)
    image = locked_image(project.docker, recipe.image)
    plan = make_plan(
        recipe,
        acquire(recipe, store).contents,
        [recipe.default_variant],
        image=image.identity,
        code=read_stage_code(project.stages),
    )
    wanted = type(plan)(plan.model, plan.image, plan.steps, {"checkpoint": "checkpoint"})
    runner = Runner(lambda: engine, store, project.stages, lambda *_, **__: None)
    made = runner.run(wanted, limits_of(recipe), lambda: image.tag)["checkpoint"]
    store.materialize(
        {path.removeprefix("model/"): blob for path, blob in made.files.items()}, target, link=False
    )
    return target


def train(name: str, extra: tuple[str, ...], out: Path) -> Path:
    """Train ``name``; the weights file.

    Raises:
        StageFailedError: the script failed; its log's end is in the message.
    """
    project, engine, store = Project.find(), Engine.find(), Store(Store.default_root())
    engine.sweep()
    recipe = load(discover(project.models)[name], project.models)
    training = TRAININGS[name]
    out.mkdir(parents=True, exist_ok=True)
    with TextReporter() as reporter, store.scratch() as scratch:
        images = Images(project.docker, lambda: engine, store, reporter.event)
        tag = images.ensure(recipe.image).tag
        places = {"sample": "/in/sample", "backbone": "/in/backbone"}
        mounts: dict[Path, tuple[str, str]] = {
            project.models / "samples" / "training": ("/in/training", "ro"),
            project.stages: ("/kiln/stages", "ro"),
            recipe.folder: (places["sample"], "ro"),
        }
        if "{backbone}" in training.arguments:
            folder = backbone(project, engine, store, scratch / "backbone")
            mounts[folder] = (places["backbone"], "ro")
        inner = scratch / "out"
        inner.mkdir()
        uid, gid = stage_user(rootless=engine.rootless)
        if os.getuid() == 0:
            os.chown(inner, uid, gid)
        _let_read(scratch)
        mounts[inner] = ("/out", "rw")
        given = [argument.format(**places) for argument in training.arguments]
        command = ["python", "-B", f"/in/training/{training.script}", *given, "--out", "/out"]
        reporter.event("note", message=f"{name}: {shlex.join([*command, *extra])}")
        outcome = engine.run(
            tag,
            [*command, *extra],
            mounts=mounts,
            environment={"PYTHONPATH": "/kiln"},
            limits=Limits(timeout=HOURS, memory=MEMORY),
            on_stdout=_show,
            user=f"{uid}:{gid}",
        )
        if outcome.exit_code != 0:
            raise StageFailedError(
                f"Training {name} ended with code {outcome.exit_code}:\n{outcome.log[-2000:]}",
                "The lines above are the end of its log.",
            )
        for path in inner.iterdir():
            shutil.copy(path, out / path.name)
    return out / "weights.npz"


def _let_read(folder: Path) -> None:
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o755)


def _show(chunk: bytes) -> None:
    sys.stdout.write(chunk.decode(errors="replace"))
    sys.stdout.flush()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sample")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where weights go.")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED)
def command(sample: str, out: Path, extra: tuple[str, ...]) -> None:
    """Train SAMPLE; arguments after ``--`` go to its training script."""
    known: Mapping[str, Training] = TRAININGS
    if sample not in known:
        raise UsageError(f"There is no training for {sample!r}.", f"Known: {', '.join(known)}.")
    weights = train(sample, extra, out.absolute())
    print(f"{weights}: {weights.stat().st_size:,} bytes, sha256 {sha256_file(weights)}")


if __name__ == "__main__":
    program.run(command, "train")
