"""What each image is built from, and the build context made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kiln.digest import key_of, sha256_file
from kiln.errors import ImageBuildError, UsageError
from kiln.files import copy_file
from kiln.untrusted import parse_toml

if TYPE_CHECKING:
    from kiln.sources.download import OnProgress
    from kiln.store import Store

DEFINITIONS = "images.toml"

#: Every time stamp in every image: 2025-01-01T00:00:00Z. Any fixed instant would do.
SOURCE_DATE_EPOCH = 1735689600


@dataclass(frozen=True)
class Definition:
    """One image of ``docker/images.toml``.

    ``parent`` is the image it starts from (none for the base); ``debian`` and ``wheels`` are lock
    files, relative to ``docker/``; ``files`` are copied into the context, relative likewise.
    """

    name: str
    folder: Path
    parent: str | None
    debian: Path | None
    wheels: tuple[Path, ...]
    tools: Path | None
    files: tuple[Path, ...]

    def inputs(self) -> tuple[Path, ...]:
        """Every file that decides what the image holds (beside its parent)."""
        locks = [lock for lock in (self.debian, self.tools) if lock]
        return (self.folder / "Dockerfile", *self.files, *self.wheels, *locks)


def load(docker_dir: Path) -> dict[str, Definition]:
    """All image definitions, parents before children.

    Raises:
        ImageBuildError: ``images.toml`` is missing or damaged.
    """
    path = docker_dir / DEFINITIONS
    try:
        return parse(path.read_text("utf-8"), docker_dir)
    except (OSError, ValueError) as error:
        raise ImageBuildError(
            f"{path} cannot be read ({error}).", "Restore it from version control."
        ) from error


def parse(text: str, docker_dir: Path) -> dict[str, Definition]:
    """The definitions in an ``images.toml``; ``ValueError`` where it is no TOML."""
    table = parse_toml(text)
    found: dict[str, Definition] = {}
    for name, entry in table.items():
        found[name] = Definition(
            name=name,
            folder=docker_dir / name,
            parent=entry.get("parent"),
            debian=docker_dir / entry["debian"] if "debian" in entry else None,
            wheels=tuple(docker_dir / lock for lock in entry.get("wheels", ())),
            tools=docker_dir / entry["tools"] if "tools" in entry else None,
            files=tuple(docker_dir / path for path in entry.get("files", ())),
        )
    return found


def get(docker_dir: Path, name: str) -> Definition:
    """One image's definition.

    Raises:
        UsageError: there is no such image.
    """
    definitions = load(docker_dir)
    if name not in definitions:
        raise UsageError(f"There is no image {name!r}.", f"Known images: {', '.join(definitions)}.")
    return definitions[name]


def recipe_digest(docker_dir: Path, name: str) -> str:
    """Digest of everything the image is built from, its parents included.

    Raises:
        ImageBuildError: one of the files is missing.
    """
    get(docker_dir, name)
    try:
        return digest_of_recipe(load(docker_dir), docker_dir, name, sha256_file)
    except OSError as error:
        raise ImageBuildError(
            f"{error.filename}, which image {name!r} is built from, cannot be read "
            f"({error.strerror}).",
            "Restore it from version control.",
        ) from error


def digest_of_recipe(
    definitions: Mapping[str, Definition],
    docker_dir: Path,
    name: str,
    digest_of: Callable[[Path], str],
) -> str:
    """:func:`recipe_digest` of definitions whose files ``digest_of`` gives the SHA-256 of.

    What ``digest_of`` raises passes; so does ``KeyError`` where an image is not defined.
    """
    definition = definitions[name]
    parent = None
    if definition.parent:
        parent = digest_of_recipe(definitions, docker_dir, definition.parent, digest_of)
    files = {
        path.relative_to(docker_dir).as_posix(): digest_of(path) for path in definition.inputs()
    }
    roles = {
        "debian": definition.debian,
        "wheels": list(definition.wheels),
        "tools": definition.tools,
    }
    described = json.loads(
        json.dumps(roles, default=lambda p: p.relative_to(docker_dir).as_posix())
    )
    return key_of(
        {"files": files, "roles": described, "parent": parent, "epoch": SOURCE_DATE_EPOCH}
    )


def fetch(
    definition: Definition, store: Store, *, jobs: int = 4, on_progress: OnProgress | None = None
) -> dict[str, Mapping[str, str]]:
    """Bring everything the image needs into the store: part -> file name -> SHA-256.

    Parts are ``debian``, ``wheels`` and ``tools``.
    """
    from kiln.sources import debian, pypi  # slow to import, and rarely needed

    parts: dict[str, Mapping[str, str]] = {}
    if definition.debian:
        parts["debian"] = debian.fetch_lock(
            definition.debian, store, jobs=jobs, on_progress=on_progress
        )
    wheels: dict[str, str] = {}
    for lock in definition.wheels:
        wheels.update(pypi.fetch_lock(lock, store, jobs=jobs, on_progress=on_progress))
    if wheels:
        parts["wheels"] = wheels
    if definition.tools:
        parts["tools"] = pypi.fetch_lock(
            definition.tools, store, jobs=jobs, on_progress=on_progress
        )
    return parts


def make_context(
    definition: Definition, parts: Mapping[str, Mapping[str, str]], store: Store, folder: Path
) -> None:
    """Lay out a build context in ``folder``: Dockerfile, helper files, locks, wheels, rootfs.

    Everything in it comes from the store or from version control; a build needs nothing else.
    """
    from kiln.images.rootfs import build_rootfs

    folder.mkdir(parents=True, exist_ok=True)
    for path in definition.inputs():
        copy_file(path, folder / path.name)
    for part in ("wheels", "tools"):
        if part in parts:
            shutil.rmtree(folder / part, ignore_errors=True)
            store.materialize(parts[part], folder / part, link=True)
    if "debian" in parts:
        with store.scratch() as scratch:
            store.materialize(parts["debian"], scratch / "debs", link=True)
            with (folder / "rootfs.tar").open("wb") as out:
                build_rootfs((scratch / "debs").iterdir(), out, epoch=SOURCE_DATE_EPOCH)
