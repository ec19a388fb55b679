"""``kiln diff``: report how two ``.tflite`` files differ."""

from __future__ import annotations

from pathlib import Path

import click

from kiln.cli.common import PATH, json_option
from kiln.cli.reporters import JsonReporter
from kiln.core.output import tolerant_output

DIFFERENT = 1
"""Exit code where the files differ, like diff(1); no failure uses it."""


@click.command("diff", short_help="Say how two .tflite files differ.")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--all", "all_items", is_flag=True, help="List every difference.")
@json_option
def diff_command(a: Path, b: Path, all_items: bool, as_json: bool) -> None:
    """Report how A and B, any .tflite files, differ; exit code 0: same bytes, 1: they differ."""
    from kiln.tflite.diff import compare

    found = compare(a, b)
    if as_json:
        JsonReporter().event("difference", **found.as_json(all_items))
    else:
        tolerant_output()
        print(found.text(all_items))
    if not found.identical:
        raise click.exceptions.Exit(DIFFERENT)
