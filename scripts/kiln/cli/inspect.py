"""``kiln inspect``: describe the contents of a ``.tflite`` file."""

from __future__ import annotations

from pathlib import Path

import click

from kiln.cli.common import PATH, json_option
from kiln.cli.reporters import JsonReporter
from kiln.core.output import tolerant_output


@click.command("inspect", short_help="Say what is in a .tflite file.")
@click.argument("file", type=PATH)
@json_option
def inspect_command(file: Path, as_json: bool) -> None:
    """Describe FILE, any .tflite: tensors, operators, weights, metadata, labels."""
    from kiln.tflite.inspect import inspect

    found = inspect(file)
    if as_json:
        JsonReporter().event("inspection", **found.as_json())
        return
    tolerant_output()
    print(found.text())
