"""``kiln convert`` and ``kiln init``: convert a user's own model without writing a recipe."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiln.cli.common import PATH, NumberRange, channel_values, json_option, reporter_for
from kiln.core.errors import UsageError

if TYPE_CHECKING:
    from kiln.building.from_training import Given

_PATH = PATH


#: The options of both commands, in the order of the help.
_OPTIONS = [
    click.option(
        "--checkpoint",
        type=_PATH,
        metavar="DIR|PREFIX",
        help="Folder of the training, or one checkpoint (training/ckpt-7).",
    ),
    click.option(
        "--saved-model",
        type=_PATH,
        metavar="DIR",
        help="Where there is no checkpoint: a SavedModel, for TFLite or Model Maker's.",
    ),
    click.option(
        "--pipeline-config", type=_PATH, help="The training's pipeline.config [beside it]."
    ),
    click.option("--label-map", type=_PATH, required=True, help="The training's label map."),
    click.option(
        "--model-maker",
        "spec",
        metavar="SPEC",
        help="It is an EfficientDet-Lite: efficientdet_lite0 to efficientdet_lite4.",
    ),
    click.option(
        "--mean",
        metavar="M[,M,M]",
        help="The value to subtract from a SavedModel's pixels [from --pipeline-config].",
    ),
    click.option(
        "--std", metavar="S[,S,S]", help="The value to divide them by [from --pipeline-config]."
    ),
    click.option("--calibration", type=_PATH, metavar="DIR", help="Calibration images for int8."),
    click.option("--images", type=_PATH, metavar="DIR", help="Images to check the result on."),
    click.option(
        "--variant",
        "variants",
        multiple=True,
        metavar="VARIANT",
        help="Only float32, float16, dynamic, int8 or int16x8; may be repeated [the first three, "
        "and int8 with images].",
    ),
    click.option(
        "--max-detections",
        type=click.IntRange(1, 1000),
        metavar="N",
        help="Number of detections to output [its own].",
    ),
    click.option(
        "--score-threshold",
        type=NumberRange(0, 1),
        metavar="S",
        help="Least score to show, for the metadata.",
    ),
    click.option("--image-size", metavar="HxW", help="Input in pixels [the model's own]."),
    click.option(
        "--output-order",
        type=click.Choice(["tf1", "tf2"]),
        default="tf2",
        help="tf1: outputs are boxes, classes, scores, count; tf2: as converted [tf2].",
    ),
    click.option(
        "--regular-nms",
        is_flag=True,
        help="Suppress overlapping boxes within each class, not across classes.",
    ),
    click.option(
        "--nms-score-threshold",
        type=NumberRange(0, 1),
        metavar="S",
        help="Least score of a box to output [the model's own].",
    ),
    click.option(
        "--nms-iou-threshold",
        type=NumberRange(0, 1, min_open=True),
        metavar="IOU",
        help="Overlap from which a box is suppressed [the model's own].",
    ),
    click.option(
        "--max-detections-per-class",
        type=click.IntRange(1, 1000),
        metavar="N",
        help="Detections of one class, with --regular-nms or --postprocess none [its own].",
    ),
    click.option(
        "--inference-io",
        type=click.Choice(["uint8", "int8"]),
        default="uint8",
        help="Input of the int8 variant; int8 is for microcontrollers [uint8].",
    ),
    click.option(
        "--postprocess",
        type=click.Choice(["tflite", "none"]),
        default="tflite",
        help="none: raw boxes and scores, for GPU delegates and NPUs, to be decoded [tflite].",
    ),
    click.option(
        "--float-layer",
        "float_layers",
        multiple=True,
        metavar="NAME",
        help="A layer or kind of operator that int8 and int16x8 leave in float; may be repeated.",
    ),
    click.option("--name", help="The model's name [from the files' folder]."),
    click.option("--title", help="Its name in the metadata."),
    click.option("--description", help="Its description in the metadata."),
    click.option("--licence", help="Its licence in the metadata, as SPDX."),
    click.option("--author", help="Its author in the metadata."),
    click.option("--model-version", "version", help="Its version in the metadata [1]."),
    click.option(
        "--allow",
        multiple=True,
        metavar="FAULT",
        help="Publish despite this fault; may be repeated.",
    ),
]


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _given(fields: dict[str, Any]) -> Given:
    from kiln.building.from_training import Given

    size = fields.pop("image_size")
    for name in ("mean", "std"):
        fields[name] = None if fields[name] is None else channel_values(name, fields[name])
    return Given(image_size=None if size is None else _size(size), **fields)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text)
    sides = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(32 <= side <= 4096 for side in sides):
        raise UsageError(
            f"{text!r} is not an image size.",
            "Give height and width, each from 32 to 4096 pixels: --image-size 320x320.",
        )
    return sides


@click.command(short_help="Convert a checkpoint of your own, without a recipe.")
@_model_options
@click.option("--keep-failed", is_flag=True, help="Keep a failed stage's inputs and output.")
@click.option(
    "-o", "--dist", "dist", type=_PATH, required=True, help="Where artefacts go: a release."
)
@json_option
def convert(dist: Path, keep_failed: bool, as_json: bool, **fields: Any) -> None:
    """Convert a model of your own and publish it, signed, in a release folder.

    Does the same as `kiln init` followed by `kiln build`.
    """
    from kiln.building.conversion import prepared
    from kiln.cli.build import run_build
    from kiln.project.folders import Project

    project = Project.find()
    target = dist.absolute()
    with prepared(_given(fields), target) as ready:
        run_build(
            project,
            ready.store,
            ready.selection,
            [],
            target,
            keep_failed=keep_failed,
            as_json=as_json,
            notes=ready.notes,
            shown_dist=dist,
        )


@click.command(short_help="Write the recipe of a checkpoint of your own.")
@_model_options
@click.option(
    "--no-pin", is_flag=True, help="Do not pin digests: build whatever the files hold then."
)
@click.option("--force", is_flag=True, help="Replace an existing recipe.")
@click.option(
    "-o", "folder", type=_PATH, required=True, metavar="FOLDER", help="Usually models/NAME."
)
@json_option
def init(folder: Path, no_pin: bool, force: bool, as_json: bool, **fields: Any) -> None:
    """Write FOLDER/recipe.toml for a model of your own, to keep in git and build."""
    from kiln.building.from_training import settle
    from kiln.building.recipe_writer import recipe_text
    from kiln.cli.build import myself
    from kiln.core.files import write_atomic
    from kiln.project.folders import Project
    from kiln.recipes.recipe import RECIPE_FILE, load
    from kiln.sources.local import reading

    path = folder / RECIPE_FILE
    with reading():
        there = path.exists()
    if there and not force:
        raise UsageError(
            f"There is a recipe already: {path}.",
            "Name another folder, or replace it with --force.",
        )
    arguments, notes = settle(_given(fields), folder=folder, pin=not no_pin)
    text = recipe_text(arguments)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}.", "Name another folder."
        ) from None
    load(path)
    with reporter_for(as_json) as reporter:
        for note in notes:
            reporter.event("note", message=note)
        reporter.event("recipe", model=arguments.name, path=str(path))
    if not as_json:
        models = folder.absolute().parent
        known = models.is_relative_to(Project.find().models)
        where = "" if known else f" --models-dir {shlex.quote(str(folder.parent))}"
        print(f"{path} written.\nBuild it with: {myself()} build {arguments.name}{where}")
