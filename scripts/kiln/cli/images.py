"""``kiln images``: build, verify and list the sealed images."""

from __future__ import annotations

import shutil

import click

from kiln.cli.common import chosen_images, images_argument, json_option, opened_images, reporter_for
from kiln.cli.images_relock import images_relock
from kiln.cli.images_sbom import images_sbom
from kiln.cli.images_transfer import images_load, images_push, images_save
from kiln.cli.reporters import JsonReporter
from kiln.core.output import table


@click.group()
def images() -> None:
    """The sealed images that stages run in."""


@images.command("build", short_help="Build and seal images, and check them.")
@images_argument
@click.option("--update-lock", is_flag=True, help="Record the identity in docker/images.lock.")
@click.option("--force", is_flag=True, help="Build even where the engine holds the locked image.")
@json_option
def images_build(names: tuple[str, ...], update_lock: bool, force: bool, as_json: bool) -> None:
    """Build the images (all when none is named), seal them, and check them against the lock."""
    from kiln.images.lock import locked_image
    from kiln.project.folders import Project

    if update_lock:
        Project.find().refuse_changes()
    with opened_images(as_json) as project_images:
        for name in chosen_images(project_images.docker_dir, names):
            if not force and not update_lock:
                project_images.ensure(name)
                continue
            held = not update_lock and project_images.present(
                locked_image(project_images.docker_dir, name)
            )
            # What the engine holds already is only compared.
            built = project_images.build(name, update_lock=update_lock, keep=not held)
            project_images.check(built, locked_image(project_images.docker_dir, name))


@images.command("verify", short_help="Rebuild images and compare every file.")
@images_argument
@json_option
def images_verify(names: tuple[str, ...], as_json: bool) -> None:
    """Rebuild images without any cache and list the files that differ from the locked ones."""
    from kiln.images.lock import locked_image

    rows = []
    with opened_images(as_json) as project_images:
        for name in chosen_images(project_images.docker_dir, names):
            locked = locked_image(project_images.docker_dir, name)
            built = project_images.build(name, keep=False)
            project_images.check(built, locked)
            rows.append([name, built.sealed.identity, f"{built.seconds['build']:.0f} s"])
    if as_json:
        for name, identity, _ in rows:
            JsonReporter().event("verified", image=name, identity=identity)
    else:
        print(table(["image", "identity (rebuilt = locked)", "build"], rows))


@images.command("list", short_help="List the locked images.")
@json_option
def images_list(as_json: bool) -> None:
    """List the locked images and whether the engine holds them."""
    from kiln.images.lock import locked_image

    rows = []
    with opened_images(as_json) as project_images:
        for name in chosen_images(project_images.docker_dir, ()):
            locked = locked_image(project_images.docker_dir, name)
            state = project_images.state(locked)
            rows.append([name, locked.tag, f"{locked.size / 1e6:,.0f} MB", state])
    if as_json:
        for name, tag, size, state in rows:
            JsonReporter().event("image", image=name, tag=tag, size=size, state=state)
    else:
        print(table(["image", "tag", "size", "state"], rows))


@images.command("context", short_help="Lay out contexts for docker compose.")
@images_argument
@json_option
def images_context(names: tuple[str, ...], as_json: bool) -> None:
    """Write build contexts to .kiln/context/ for `docker compose build`."""
    from kiln.core.store import Store
    from kiln.images import definition as definitions
    from kiln.project.folders import Project

    project = Project.find()
    store = Store(Store.default_root())
    with reporter_for(as_json) as reporter:
        for name in chosen_images(project.docker, names):
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


for command in (images_load, images_push, images_relock, images_save, images_sbom):
    images.add_command(command)
