"""Start the ``kiln`` command: parse arguments, print tables, set exit codes."""

from __future__ import annotations

from pathlib import Path

import click

from kiln.cli.accuracy import accuracy
from kiln.cli.annotate import annotate_command
from kiln.cli.bench_model import bench_model
from kiln.cli.bundle import bundle
from kiln.cli.cache import cache
from kiln.cli.collect import collect, notes
from kiln.cli.common import (
    archive_option,
    cluster_options,
    dist_option,
    json_option,
    models_dir_option,
    samples_option,
    variants_option,
)
from kiln.cli.compile import compile_command
from kiln.cli.convert import convert, init
from kiln.cli.diff import diff_command
from kiln.cli.explain_int8 import explain_int8
from kiln.cli.images import images
from kiln.cli.inspect import inspect_command
from kiln.cli.keys import keys_group
from kiln.cli.page import page
from kiln.cli.plan import plan
from kiln.cli.program import run_command
from kiln.cli.reporters import JsonReporter
from kiln.cli.reproduce import reproduce
from kiln.cli.verify import verify
from kiln.cli.worker import worker
from kiln.core.errors import RecipeError, UsageError
from kiln.core.output import table
from kiln.core.version import __version__

# Commands import heavy modules (docker, pydantic, signing) themselves: a command with nothing to
# do should not pay for them.


def main() -> None:
    """Run the command line; every failure becomes one message and an exit code."""
    run_command(cli, "kiln")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kiln")
def cli() -> None:
    """TensorFlow object detectors to TFLite: sealed images, same bytes anywhere, signed."""


@cli.command(short_help="Convert models and publish them, signed.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@variants_option
@samples_option
@archive_option
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Models at a time [what processors and memory allow].",
)
@models_dir_option
@click.option("--keep-failed", is_flag=True, help="Keep a failed stage's inputs and output.")
@cluster_options
@dist_option
@json_option
def build(
    models: tuple[str, ...],
    variants: tuple[str, ...],
    samples: bool,
    archive: Path | None,
    jobs: int | None,
    models_dir: Path | None,
    keep_failed: bool,
    cluster: str | None,
    insecure: bool,
    dist: Path | None,
    as_json: bool,
) -> None:
    """Convert models (all recipes when none is named) and publish them, signed, in dist/."""
    from kiln.cli.build import run_build
    from kiln.cluster.address import cluster_address
    from kiln.core.store import Store
    from kiln.project.folders import Project
    from kiln.recipes.recipe import VARIANTS, discover
    from kiln.recipes.selection import select

    address = cluster_address(cluster, insecure=insecure)
    if address is not None and keep_failed:
        raise UsageError(
            "--keep-failed goes with stages on this machine.", "Leave it, or --cluster, out."
        )
    project = Project.find()
    folder = (models_dir or project.models).absolute()
    chosen = select(folder, discover(folder), models, samples=samples, variants=variants)
    if archive is not None and len(chosen.names) != 1:
        raise UsageError(
            "--archive goes with exactly one model.", "Name the model whose archive it is."
        )
    run_build(
        project,
        Store(Store.default_root()),
        chosen,
        [variant for variant in VARIANTS if variant in variants],
        (dist or project.root / "dist").absolute(),
        archive=archive,
        jobs=jobs,
        keep_failed=keep_failed,
        as_json=as_json,
        shown_dist=dist,
        cluster=address,
    )


@cli.command(short_help="List the recipes.")
@json_option
def models(as_json: bool) -> None:
    """List the recipes: source, whether it is downloaded, variants, and the last build's result."""
    from kiln.building.catalogue import catalogue
    from kiln.core.store import Store
    from kiln.project.folders import Project

    entries, broken = catalogue(Project.find().models, Store(Store.default_root()))
    if as_json:
        for entry in entries:
            JsonReporter().event("model", **entry.as_json())
    else:
        head = ["model", "architecture", "kind", "image", "source", "variants", "last build"]
        print(table(head, [entry.cells() for entry in entries]))
    if broken:
        raise RecipeError("\n".join(error.message for error in broken), broken[0].remedy)


@cli.command(short_help="Say what is fine, what is not, and what to do.")
@json_option
def doctor(as_json: bool) -> None:
    """Check what kiln needs of this machine, and tell how to fix problems."""
    from kiln.building.doctor import examine
    from kiln.project.folders import Project

    findings = examine(Project.find())
    if as_json:
        for item in findings:
            JsonReporter().event(
                "finding", what=item.what, state=item.state, detail=item.detail, remedy=item.remedy
            )
    else:
        for item in findings:
            print(f"{item.state:>7}  {item.what}: {item.detail}")
            if item.remedy:
                print(f"         -> {item.remedy}")
    first = next((item.error for item in findings if item.error is not None), None)
    if first is not None:
        raise click.exceptions.Exit(first.exit_code)


@cli.command(short_help="Remove what killed runs left behind.")
@click.option("--store", "empty_store", is_flag=True, help="Also remove every download and result.")
@click.option("--images", "drop_images", is_flag=True, help="Also remove the sealed images.")
@json_option
def clean(empty_store: bool, drop_images: bool, as_json: bool) -> None:
    """Remove what killed runs left behind: containers, scratch folders, unfinished images."""
    from kiln.building.clean import clean as clean_up
    from kiln.core.store import Store

    store = Store(Store.default_root())
    for what, count in clean_up(store, empty_store=empty_store, drop_images=drop_images).items():
        if as_json:
            JsonReporter().event("cleaned", what=what, count=count)
        else:
            print(f"{what}: {count} removed")


for command in (
    accuracy,
    annotate_command,
    bench_model,
    bundle,
    cache,
    collect,
    compile_command,
    convert,
    diff_command,
    explain_int8,
    images,
    init,
    inspect_command,
    keys_group,
    notes,
    page,
    plan,
    reproduce,
    verify,
    worker,
):
    cli.add_command(command)
