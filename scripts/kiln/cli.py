"""The ``kiln`` command: arguments in, tables and exit codes out; no logic of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from kiln import __version__
from kiln.choices import refuse_unknown
from kiln.cli_accuracy import accuracy
from kiln.cli_archived import images_load, images_push, images_save
from kiln.cli_bench_model import bench_model
from kiln.cli_bundle import bundle
from kiln.cli_collect import collect, notes
from kiln.cli_convert import convert, init
from kiln.cli_diff import diff_command
from kiln.cli_inspect import inspect_command
from kiln.cli_keys import keys_group
from kiln.cli_page import page
from kiln.cli_plan import plan
from kiln.cli_relock import images_relock
from kiln.cli_reproduce import reproduce
from kiln.cli_sbom import images_sbom
from kiln.cli_verify import verify
from kiln.errors import CancelledError, KilnError, RecipeError, UsageError
from kiln.ui import JsonReporter, TextReporter, table

if TYPE_CHECKING:
    from kiln.images.builder import Images
    from kiln.project import Project
    from kiln.store import Store

# Heavy modules (docker, pydantic, signing) are imported by the commands that use them: a
# command that finds nothing to do must not pay for them.


def main() -> None:
    """Run the command line; every failure becomes one message and its own exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    json_wanted = "--json" in sys.argv
    try:
        with _guard():
            # Not standalone, click returns the code of a `click.exceptions.Exit`.
            code = cli.main(prog_name="kiln", standalone_mode=False)
    except KilnError as error:
        _complain(error, json_wanted)
        if isinstance(error, CancelledError):
            # A thread that is deep in an image build would keep the interpreter waiting; closing
            # its connection is what makes the engine stop that build.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


@contextlib.contextmanager
def _guard() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click >= 8.2: a bare `kiln`
            print(error.format_message(), file=sys.stderr)
            raise click.exceptions.Exit(2) from None
        where = f" {error.ctx.command_path}" if error.ctx else " kiln"
        raise UsageError(error.format_message(), f"See `{where.strip()} --help`.") from error
    except (KeyboardInterrupt, click.Abort):
        raise CancelledError(
            "Stopped.", "Finished stages are kept; run the command again to go on."
        ) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise click.exceptions.Exit(0) from None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _complain(error: KilnError, json_wanted: bool) -> None:
    if json_wanted:
        JsonReporter().event(
            "error",
            kind=error.kind,
            message=error.message,
            remedy=error.remedy,
            exit_code=error.exit_code,
        )
        return
    print(f"kiln: {error.message}", file=sys.stderr)
    if error.remedy:
        print(f"      {error.remedy}", file=sys.stderr)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kiln")
def cli() -> None:
    """TensorFlow object detectors to TFLite: sealed images, same bytes anywhere, signed."""


_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable events, one a line.")
_dist = click.option(
    "--dist", type=click.Path(path_type=Path), default=None, help="Where artefacts go [dist/]."
)


def _project() -> Project:
    from kiln.project import Project

    return Project.find()


def _store() -> Store:
    from kiln.store import Store

    return Store(Store.default_root())


def _reporter(as_json: bool) -> JsonReporter | TextReporter:
    return JsonReporter() if as_json else TextReporter()


@cli.command(short_help="Convert models and publish them, signed.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="VARIANT",
    help="Only float32, float16, dynamic, int8 or prebuilt; may be repeated.",
)
@click.option("--samples", is_flag=True, help="Only the embedded samples.")
@click.option(
    "--archive", type=click.Path(path_type=Path), help="The model's archive, already downloaded."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, metavar="N", help="Models at a time [1]."
)
@click.option("--models-dir", type=click.Path(path_type=Path), help="Where recipes are [models/].")
@click.option("--keep-failed", is_flag=True, help="Keep what a failed stage saw and wrote.")
@_dist
@_json
def build(
    models: tuple[str, ...],
    variants: tuple[str, ...],
    samples: bool,
    archive: Path | None,
    jobs: int,
    models_dir: Path | None,
    keep_failed: bool,
    dist: Path | None,
    as_json: bool,
) -> None:
    """Convert models (all recipes when none is named) and publish them, signed, in dist/."""
    from kiln.cli_build import run_build
    from kiln.recipe import VARIANTS, discover
    from kiln.selection import choose

    project = _project()
    folder = (models_dir or project.models).absolute()
    recipes = discover(folder)
    chosen = choose(folder, recipes, models, samples=samples, variants=variants)
    if archive is not None and len(chosen) != 1:
        raise UsageError(
            "--archive goes with exactly one model.", "Name the model whose archive it is."
        )
    run_build(
        project,
        _store(),
        folder,
        chosen,
        recipes,
        [variant for variant in VARIANTS if variant in variants],
        (dist or project.root / "dist").absolute(),
        archive=archive,
        jobs=jobs,
        keep_failed=keep_failed,
        as_json=as_json,
        shown_dist=dist,
    )


@cli.command(short_help="List the recipes.")
@_json
def models(as_json: bool) -> None:
    """List the recipes: source and whether it is at hand, variants, and the last build's result."""
    from kiln.catalogue import catalogue

    project = _project()
    entries, broken = catalogue(project.models, _store())
    if as_json:
        for entry in entries:
            JsonReporter().event("model", **entry.as_json())
    else:
        head = ["model", "architecture", "kind", "image", "source", "variants", "last build"]
        print(table(head, [entry.cells() for entry in entries]))
    if broken:
        raise RecipeError("\n".join(error.message for error in broken), broken[0].remedy)


@cli.group()
def images() -> None:
    """The sealed images that stages run in."""


@contextlib.contextmanager
def _images(as_json: bool) -> Iterator[Images]:
    from kiln.images.builder import Images

    store = _store()
    store.sweep()
    with _reporter(as_json) as reporter:
        yield Images.on_any_engine(_project().docker, store, reporter.event)


def _image_names(project: Project, names: tuple[str, ...]) -> list[str]:
    from kiln.images.definition import load

    known = load(project.docker)
    refuse_unknown("image", names, known)
    return [name for name in known if not names or name in names]


@images.command("build", short_help="Build and seal images, and check them.")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@click.option("--update-lock", is_flag=True, help="Record the identity in docker/images.lock.")
@click.option("--force", is_flag=True, help="Build even where the engine holds the locked image.")
@_json
def images_build(names: tuple[str, ...], update_lock: bool, force: bool, as_json: bool) -> None:
    """Build the images (all when none is named), seal them, and hold them against the lock."""
    from kiln.images.lock import locked_image

    chosen = _image_names(_project(), names)
    with _images(as_json) as project_images:
        for name in chosen:
            if not force and not update_lock:
                project_images.ensure(name)
                continue
            built = project_images.build(name, update_lock=update_lock)
            project_images.check(built, locked_image(project_images.docker_dir, name))


@images.command("verify", short_help="Rebuild images and compare every file.")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@_json
def images_verify(names: tuple[str, ...], as_json: bool) -> None:
    """Rebuild images without any cache and say which files differ from the locked ones."""
    from kiln.images.lock import locked_image

    chosen = _image_names(_project(), names)
    rows = []
    with _images(as_json) as project_images:
        for name in chosen:
            locked = locked_image(project_images.docker_dir, name)
            built = project_images.build(name)
            project_images.check(built, locked)
            rows.append([name, built.sealed.identity, f"{built.seconds['build']:.0f} s"])
    if as_json:
        for name, identity, _ in rows:
            JsonReporter().event("verified", image=name, identity=identity)
    else:
        print(table(["image", "identity (rebuilt = locked)", "build"], rows))


@images.command("list", short_help="List the locked images.")
@_json
def images_list(as_json: bool) -> None:
    """List the locked images and whether the engine holds them."""
    from kiln.images.lock import locked_image

    rows = []
    with _images(as_json) as project_images:
        for name in _image_names(_project(), ()):
            locked = locked_image(project_images.docker_dir, name)
            state = project_images.state(locked)
            rows.append([name, locked.tag, f"{locked.size / 1e6:,.0f} MB", state])
    if as_json:
        for name, tag, size, state in rows:
            JsonReporter().event("image", image=name, tag=tag, size=size, state=state)
    else:
        print(table(["image", "tag", "size", "state"], rows))


@images.command("context", short_help="Lay out contexts for docker compose.")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@_json
def images_context(names: tuple[str, ...], as_json: bool) -> None:
    """Lay out build contexts in .kiln/context/ for `docker compose build`."""
    from kiln.images import definition as definitions

    project = _project()
    store = _store()
    with _reporter(as_json) as reporter:
        for name in _image_names(project, names):
            definition = definitions.get(project.docker, name)
            parts = definitions.fetch(
                definition,
                store,
                on_progress=lambda item, done, total: reporter.event(
                    "download", name=item, done=done, total=total
                ),
            )
            folder = project.root / ".kiln" / "context" / name
            shutil.rmtree(folder, ignore_errors=True)
            definitions.make_context(definition, parts, store, folder)
            reporter.event("note", message=f"{name}: context in {folder}")


@cli.command(short_help="Say what is fine, what is not, and what to do.")
@_json
def doctor(as_json: bool) -> None:
    """Say what kiln needs, what is fine, what is not, and what to do about it."""
    from kiln.doctor import examine

    findings = examine(_project())
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
@click.option("--store", "empty_store", is_flag=True, help="Also forget every download and result.")
@click.option("--images", "drop_images", is_flag=True, help="Also remove the sealed images.")
@_json
def clean(empty_store: bool, drop_images: bool, as_json: bool) -> None:
    """Remove what killed runs left behind: containers, scratch folders, unfinished images."""
    from kiln.cleaning import clean as clean_up

    for what, count in clean_up(_store(), empty_store=empty_store, drop_images=drop_images).items():
        if as_json:
            JsonReporter().event("cleaned", what=what, count=count)
        else:
            print(f"{what}: {count} removed")


images.add_command(images_save)
images.add_command(images_load)
images.add_command(images_push)
images.add_command(images_sbom)
cli.add_command(convert)
cli.add_command(init)
cli.add_command(inspect_command)
cli.add_command(keys_group)
cli.add_command(diff_command)
cli.add_command(accuracy)
cli.add_command(page)
cli.add_command(plan)
images.add_command(images_relock)
cli.add_command(collect)
cli.add_command(notes)
cli.add_command(reproduce)
cli.add_command(bundle)
cli.add_command(verify)

cli.add_command(bench_model)

if __name__ == "__main__":
    main()
