"""``kiln annotate``: write metadata into a finished ``.tflite`` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.cli.common import PATH, NumberRange, channel_values, json_option, reporter_for
from kiln.core.errors import UsageError

if TYPE_CHECKING:
    from kiln.building.annotation import Annotated

_ROLES = ("boxes", "classes", "scores", "count")
_TEXTS = ("name", "description", "version", "author", "license")


@click.command("annotate", short_help="Write metadata into a finished .tflite file.")
@click.argument("file", type=PATH)
@click.option("--label-map", type=PATH, required=True, help="The training's label map.")
@click.option(
    "--mean", metavar="M[,M,M]", help="The value to subtract from pixels [uint8: the input's own]."
)
@click.option("--std", metavar="S[,S,S]", help="The value to divide them by [likewise].")
@click.option(
    "--fit",
    type=click.Choice(["letterbox", "stretch"]),
    help="How its training fitted pictures to the input.",
)
@click.option("--fill", metavar="V[,V,V]", help="Pixel value of a letterbox's rest.")
@click.option(
    "--sampling",
    type=click.Choice(["half-pixel", "corner"]),
    help="corner: resized as by the Object Detection API [half-pixel].",
)
@click.option(
    "--checkpoint",
    type=PATH,
    metavar="DIR|PREFIX",
    help="The training, or a checkpoint, to check the file against.",
)
@click.option("--pipeline-config", type=PATH, help="Its pipeline.config [beside it].")
@click.option("--model-maker", "spec", metavar="SPEC", help="It is an EfficientDet-Lite.")
@click.option("--images", type=PATH, metavar="DIR", help="Images to check on.")
@click.option(
    "--allow", multiple=True, metavar="FAULT", help="Write despite this fault; may be repeated."
)
@click.option(
    "--roles",
    metavar="ROLE=OUTPUT,...",
    help="Which output holds boxes, classes, scores, count [from the graph].",
)
@click.option(
    "--score-threshold",
    type=NumberRange(0, 1),
    metavar="S",
    help="Least score to show.",
)
@click.option("--name", help="The model's name.")
@click.option("--description", help="Its description.")
@click.option("--model-version", "version", help="Its version.")
@click.option("--author", help="Its author.")
@click.option("--licence", "license", help="Its licence, as SPDX.")
@click.option("--force", is_flag=True, help="Replace existing metadata, and existing files.")
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="The file to write.")
@json_option
def annotate_command(
    file: Path,
    label_map: Path,
    mean: str | None,
    std: str | None,
    fit: str | None,
    fill: str | None,
    sampling: str | None,
    checkpoint: Path | None,
    pipeline_config: Path | None,
    spec: str | None,
    images: Path | None,
    allow: tuple[str, ...],
    roles: str | None,
    score_threshold: float | None,
    force: bool,
    output: Path,
    as_json: bool,
    **texts: str | None,
) -> None:
    """Write FILE, any detector's .tflite, with labels, normalisation and roles of the outputs.

    The graph and its weights stay as they are, but for shapes that the outputs lack. With
    --checkpoint the file is checked against it.
    Else nothing is proved, and the record beside the new file says so.
    """
    from kiln.building.annotation import annotate_file
    from kiln.building.annotation_request import Wanted, source_of

    wanted = Wanted(
        file=file,
        label_map=label_map,
        mean=None if mean is None else channel_values("mean", mean),
        std=None if std is None else channel_values("std", std),
        fit=fit,
        fill=None if fill is None else channel_values("fill", fill),
        sampling=sampling,
        roles=_roles(roles),
        score_threshold=score_threshold,
        texts={name: text for name in _TEXTS if (text := texts[name]) is not None},
        source=source_of(checkpoint, pipeline_config, spec, images, allow),
    )
    with reporter_for(as_json) as reporter:
        done = annotate_file(wanted, output, reporter.event, force=force)
        for note in done.notes:
            reporter.event("note", message=note)
        reporter.event("annotated", path=str(done.path), **done.record)
    if not as_json:
        print(_shown(done))


def _shown(done: Annotated) -> str:
    file, classes, norm, roles = (
        done.record[key] for key in ("file", "classes", "normalization", "roles")
    )
    mean, std = (", ".join(f"{value:g}" for value in norm[key]) for key in ("mean", "std"))
    rows = {
        "sha256": file["sha256"],
        "classes": f"{classes['count']}, from the {classes['from']}",
        "normalisation": f"mean {mean}, std {std}, {_FROM.get(norm['from'], norm['from'])}",
        "roles": _FROM.get(roles["from"], roles["from"]),
        "proof": done.proof,
        "record": str(done.record_path),
    }
    lines = [f"  {key:<14}{value}" for key, value in rows.items()]
    return "\n".join([f"{done.path}, {file['size']:,} bytes", *lines])


_FROM = {
    "given": "as given",
    "quantisation": "from the input's quantisation",
    "operator": "from the detection operator",
    "signature": "from the signature's names",
    "graph": "from shapes and producers",
    "checkpoint": "measured from the model's own preprocessing",
}


def _roles(text: str | None) -> dict[str, str]:
    """Parse ``boxes=NAME,classes=NAME,scores=NAME,count=NAME``."""
    if text is None:
        return {}
    pairs = [part.partition("=") for part in text.split(",")]
    found = {role.strip(): name for role, _, name in pairs}
    if sorted(role.strip() for role, _, _ in pairs) != sorted(_ROLES) or not all(found.values()):
        raise UsageError(
            f"--roles {text!r} does not name one output for each of {', '.join(_ROLES)}.",
            "Write --roles boxes=NAME,classes=NAME,scores=NAME,count=NAME; `kiln inspect` lists "
            "the outputs.",
        )
    return found
