"""``kiln images save``, ``load`` and ``push``: move sealed images by file or registry."""

from __future__ import annotations

from pathlib import Path

import click

from kiln.cli.common import PATH, chosen_images, images_argument, json_option, opened_images
from kiln.cli.reporters import JsonReporter
from kiln.core.errors import ImageMismatchError, UsageError


@click.command("save", short_help="Write sealed images to files.")
@images_argument
@click.option(
    "-o",
    "out",
    type=PATH,
    required=True,
    metavar="DIR|FILE",
    help="Where: a folder, or for one image a file.",
)
@json_option
def images_save(names: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Write sealed images (all when none is named) as archives for `docker load`.

    Every engine gives the same bytes. `kiln images load` checks them against the lock.
    """
    from kiln.images.lock import locked_image

    with opened_images(as_json) as images:
        chosen = chosen_images(images.docker_dir, names)
        single = len(chosen) == 1 and out.suffix == ".tar" and not out.is_dir()
        try:
            (out.parent if single else out).mkdir(parents=True, exist_ok=True)
            for name in chosen:
                locked = locked_image(images.docker_dir, name)
                file = f"{name}-{locked.identity.removeprefix('sha256:')[:16]}.tar"
                target = (out if single else out / file).absolute()
                digest = images.save(name, target)
                size = target.stat().st_size
                if as_json:
                    JsonReporter().event(
                        "saved", image=name, file=str(target), sha256=digest, size=size
                    )
                else:
                    print(f"{name}: {target}, {size / 1e6:,.0f} MB, sha256 {digest}")
        except OSError as error:
            raise UsageError(
                f"{error.filename or out} cannot be written: {error.strerror or error}.",
                "Name another place with -o.",
            ) from error


@click.command("load", short_help="Load sealed images from files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=PATH)
@json_option
def images_load(files: tuple[Path, ...], as_json: bool) -> None:
    """Check archives of sealed images against docker/images.lock, and load them."""
    with opened_images(as_json) as images:
        for path in files:
            if not path.is_file():
                raise UsageError(f"There is no file {path}.", "Check the path.")
            try:
                locked = images.load(path)
            except OSError as error:
                raise UsageError(
                    f"{path} cannot be read: {error.strerror or error}.", "Check its permissions."
                ) from error
            if as_json:
                JsonReporter().event("loaded", image=locked.name, identity=locked.identity)
            else:
                print(f"{locked.name}: {locked.identity}, as {locked.tag}")


@click.command("push", short_help="Put sealed images into a registry.")
@images_argument
@json_option
def images_push(names: tuple[str, ...], as_json: bool) -> None:
    """Push the sealed images (all when none is named) to the registry KILN_IMAGE_REGISTRY."""
    from kiln.images import registry
    from kiln.images.lock import locked_image

    where = registry.registry()
    if where is None:
        raise UsageError(
            "No registry is named.",
            "Set KILN_IMAGE_REGISTRY, for example to registry.example/someone/kiln.",
        )
    with opened_images(as_json) as images:
        for name in chosen_images(images.docker_dir, names):
            locked = locked_image(images.docker_dir, name)
            if not images.present(locked):
                raise ImageMismatchError(
                    f"The engine does not hold the sealed image {name!r}.",
                    f"`kiln images build {name}` provides it.",
                )
            reference = registry.push(images.engine, locked, where)
            if as_json:
                JsonReporter().event("pushed", image=name, reference=reference)
            else:
                print(f"{name}: {reference}")
