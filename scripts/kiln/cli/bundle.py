"""``kiln bundle``: pack everything that building needs in one file, and import it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.cli.common import PATH, json_option, own_store, reporter_for, samples_option
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import EngineUnavailableError, UsageError

if TYPE_CHECKING:
    from kiln.bundle.index import Index


@click.group(short_help="All that building needs, in one file.")
def bundle() -> None:
    """One file with everything that building and reproducing need, for offline machines."""


@bundle.command("create", short_help="Pack what models and images are made from.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "-o", "out", type=PATH, required=True, metavar="FILE.tar", help="The bundle to write."
)
@samples_option
@click.option(
    "--release", type=PATH, metavar="DIST", help="What the artefacts of this release were made of."
)
@click.option("--without-images", is_flag=True, help="Leave the sealed images out.")
@click.option("--without-packages", is_flag=True, help="Leave out what images are built from.")
@json_option
def bundle_create(
    models: tuple[str, ...],
    out: Path,
    samples: bool,
    release: Path | None,
    without_images: bool,
    without_packages: bool,
    as_json: bool,
) -> None:
    """Pack the sources of models (all recipes when none is named), sealed images, and packages.

    What is missing is fetched first. The same contents make the same file.
    """
    from kiln.bundle.contents import Contents, locked_images, names_of
    from kiln.bundle.needs import needs_of
    from kiln.bundle.writing import write
    from kiln.core.suggest import refuse_unknown
    from kiln.images.builder import Images
    from kiln.project.folders import Project
    from kiln.recipes.check_steps import DEVICE
    from kiln.recipes.recipe import discover
    from kiln.recipes.selection import select

    project = Project.find()
    # A release brings its recipes; there need be none here.
    needed = release is None or models or project.models.is_dir()
    found = discover(project.models) if needed else {}
    refuse_unknown("model", models, found)
    target = out.absolute()
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent}.", "Name another place with -o.")
    needs = needs_of(release.absolute()) if release is not None else []
    if models:
        needs = [item for item in needs if item.model in models]
    chosen = list(models) or [item.model for item in needs if item.model in found]
    recipes = []
    if chosen or not needs:
        recipes = select(project.models, found, chosen, samples=samples).unbroken()
    store = own_store()
    with contextlib.ExitStack() as stack:
        reporter = stack.enter_context(reporter_for(as_json))
        contents = Contents(project, store, reporter.event, stack)
        made_in: dict[Path, set[str]] = {}
        for recipe in recipes:
            contents.add_model(recipe)
            made_in.setdefault(project.docker, set()).update({recipe.image, DEVICE})
        for item in needs:
            contents.add_needs(item)
            folder = contents.docker_of(item)
            made_in.setdefault(folder, set()).update(names_of(folder, item.images))
        for folder, names in made_in.items():
            if not without_packages:
                contents.add_packages(folder, names)
            if not without_images:
                # Images of a release are never built here: the release may be untrusted.
                own = folder == project.docker
                images = Images.on_any_engine(folder, store, reporter.event, may_build=own)
                for locked in locked_images(folder, sorted(names)):
                    contents.add_image(images, locked)
        index = contents.index()

        def progress(done: int, total: int) -> None:
            reporter.event("bundle", what="writing", done=done, total=total)

        try:
            write(target, index, contents.readers, progress)
        except OSError as error:
            raise UsageError(
                f"{target} cannot be written: {error.strerror or error}.",
                "Name another place with -o.",
            ) from error
    _tell(target, index, as_json, "created")


@bundle.command("import", short_help="Take a bundle's contents into the store.")
@click.argument("file", type=PATH)
@json_option
def bundle_import(file: Path, as_json: bool) -> None:
    """Check every byte of a bundle, copy its contents into the store, and load its images.

    Afterwards, a build of its contents needs no network.
    """
    from kiln.bundle.reading import import_bundle
    from kiln.images.builder import Images
    from kiln.images.lock import read_lock
    from kiln.project.folders import Project

    project = Project.find()
    store = own_store()
    with reporter_for(as_json) as reporter:
        found = import_bundle(
            file.absolute(),
            store,
            lambda done, total: reporter.event("bundle", what="reading", done=done, total=total),
        )
        for model in found.first_uses:
            reporter.event(
                "note",
                message=f"{model}: its recipe pins no archive; the bundle's is trusted from now on",
            )
        for model in found.kept:
            reporter.event(
                "note",
                message=f"{model}: this machine has used an archive from another address before; "
                "to use the bundle's, pin it in the recipe, in [source], with its sha256",
            )
        locked = read_lock(project.docker)
        images = Images.on_any_engine(project.docker, store, reporter.event)
        for image in found.index.images:
            if image.name not in locked or locked[image.name].identity != image.identity:
                reporter.event(
                    "note",
                    message=f"image {image.name}: stored as {image.identity}, which is not the "
                    "identity in docker/images.lock",
                )
                continue
            try:
                images.ensure(image.name)
            except EngineUnavailableError:
                reporter.event(
                    "note",
                    message=f"image {image.name}: kept in the store, because no engine answers; "
                    "the first build that needs it loads it",
                )
    _tell(file, found.index, as_json, "imported", new=found.new)


def _tell(path: Path, index: Index, as_json: bool, event: str, **fields: int) -> None:
    size = path.stat().st_size
    counts = {"contents": len(index.blobs), "images": len(index.images), **fields}
    if as_json:
        JsonReporter().event(event, file=str(path), size=size, **counts)
        return
    images = ", ".join(image.name for image in index.images) or "none"
    new = f", {fields['new']} of them new" if "new" in fields else ""
    print(f"{path}: {size / 1e6:,.1f} MB, {len(index.blobs)} contents{new}, images: {images}")
