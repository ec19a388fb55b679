"""``kiln images save``, ``load`` and ``push``: sealed images as files and in registries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiln.errors import ImageMismatchError, UsageError
from kiln.ui import JsonReporter, TextReporter

if TYPE_CHECKING:
    from kiln.images.builder import Images

_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable events, one a line.")


@contextlib.contextmanager
def _opened(as_json: bool) -> Iterator[Images]:
    from kiln.images.builder import Images
    from kiln.project import Project
    from kiln.store import Store

    store = Store(Store.default_root())
    store.sweep()
    with JsonReporter() if as_json else TextReporter() as reporter:
        yield Images.on_any_engine(Project.find().docker, store, reporter.event)


def _chosen(images: Images, names: tuple[str, ...]) -> list[str]:
    from kiln.choices import refuse_unknown
    from kiln.images.definition import load

    known = load(images.docker_dir)
    refuse_unknown("image", names, known)
    return [name for name in known if not names or name in names]


@click.command("save", short_help="Write sealed images to files.")
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@click.option(
    "-o",
    "out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR|FILE",
    help="Where: a folder, or for one image a file.",
)
@_json
def images_save(names: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Write sealed images (all when none is named) as archives for `docker load`.

    The same bytes from every engine. `kiln images load` holds them against the lock.
    """
    from kiln.images.lock import locked_image

    with _opened(as_json) as images:
        chosen = _chosen(images, names)
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
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@_json
def images_load(files: tuple[Path, ...], as_json: bool) -> None:
    """Load archives of sealed images, after holding each against docker/images.lock."""
    with _opened(as_json) as images:
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
@click.argument("names", nargs=-1, metavar="[IMAGE]...")
@_json
def images_push(names: tuple[str, ...], as_json: bool) -> None:
    """Put the sealed images (all when none is named) into the registry KILN_IMAGE_REGISTRY."""
    from kiln.images import registry
    from kiln.images.lock import locked_image

    where = registry.registry()
    if where is None:
        raise UsageError(
            "No registry is named.",
            "Set KILN_IMAGE_REGISTRY, for example to registry.example/someone/kiln.",
        )
    with _opened(as_json) as images:
        for name in _chosen(images, names):
            locked = locked_image(images.docker_dir, name)
            if not images.present(locked):
                raise ImageMismatchError(
                    f"The engine does not hold the sealed image {name!r}.",
                    f"`kiln images build {name}` brings it.",
                )
            reference = registry.push(images.engine, locked, where)
            if as_json:
                JsonReporter().event("pushed", image=name, reference=reference)
            else:
                print(f"{name}: {reference}")
