"""``kiln explain-int8``: show what each layer of a model loses in int8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.cli.common import (
    PATH,
    archive_option,
    json_option,
    models_dir_option,
    own_store,
    reporter_for,
)
from kiln.core.errors import UsageError
from kiln.core.output import table
from kiln.core.plain_text import plain

if TYPE_CHECKING:
    from kiln.measure.quantisation import Explanation

_MOST = 20


@click.command("explain-int8", short_help="Show what each layer loses in int8.")
@click.argument("model")
@click.option(
    "--layers",
    type=click.IntRange(1),
    default=_MOST,
    metavar="N",
    help=f"Show the N worst layers [{_MOST}].",
)
@click.option("--svg", type=PATH, metavar="FILE", help="Draw all layers there.")
@archive_option
@models_dir_option
@json_option
def explain_int8(
    model: str,
    layers: int,
    svg: Path | None,
    archive: Path | None,
    models_dir: Path | None,
    as_json: bool,
) -> None:
    """Show what each layer of MODEL loses in int8, the worst first.

    Each layer is compared with its float form on the calibration images, both with the same
    input. A name can be written into float_layers in the recipe: that layer then stays in float.
    """
    from kiln.measure.quantisation import explain_model

    if svg is not None and (svg.is_dir() or not svg.absolute().parent.is_dir()):
        raise UsageError(
            f"{svg.absolute()} cannot be written: it is a folder, or there is none to hold it.",
            "Name a file in a folder that exists.",
        )
    with reporter_for(as_json) as reporter:
        found = explain_model(
            model, own_store(), reporter.event, models_dir=models_dir, archive=archive
        )
        if as_json:
            reporter.event("explained", **found.as_json())
    if not as_json:
        print(_text(found, layers))
    if svg is not None:
        _draw(found, svg.absolute())


def _text(found: Explanation, most: int) -> str:
    """Return the table of the worst layers, and below it what the figures mean."""
    rows = [
        [
            plain(layer.name),
            layer.operator,
            f"{layer.rmse_by_scale:.2f}",
            f"{layer.rmse:.4g}",
            f"{layer.max_error:.4g}",
        ]
        for layer in found.worst()[:most]
    ]
    head = [found.model, "operator", "rmse/scale", "rmse", "largest"]
    count = len(found.layers)
    shown = f"the {len(rows)} worst of {count} layers" if len(rows) < count else f"{count} layers"
    notes = [
        f"{shown[0].upper()}{shown[1:]}, on {found.pictures} calibration pictures. rmse/scale is "
        "the error in steps of the layer's output: rounding alone makes 0.29.",
    ]
    if found.in_float:
        many = len(found.in_float)
        notes.append(f"In float: {many} layer{'' if many == 1 else 's'}.")
    notes.append(
        f'To leave layers in float: [int8] float_layers = ["{rows[0][0]}"] in the recipe, or '
        "--float-layer of kiln convert."
    )
    return "\n".join([table(head, rows), "", *notes])


def _draw(found: Explanation, path: Path) -> None:
    from kiln.core.files import write_atomic

    try:
        write_atomic(path, found.svg().encode())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Name another file; the measurement is kept.",
        ) from error
