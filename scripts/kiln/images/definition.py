"""Define what each image is built from, and make its build context."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.core.digest import key_of, sha256_file
from kiln.core.errors import ImageBuildError, UsageError
from kiln.core.files import copy_file
from kiln.core.untrusted import MAX_TOML_BYTES, MalformedError, parse_toml, read_file

if TYPE_CHECKING:
    from kiln.core.store import Store
    from kiln.sources import pypi
    from kiln.sources.download import OnProgress

DEFINITIONS = "images.toml"

#: A valid image name: a folder below ``docker/``, and a part of names in engines.
IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

_MAX_IMAGES = 64
_MAX_PATHS = 64
_FIELDS = {"parent", "debian", "system", "wheels", "tools", "files"}

_SYSTEM_FORMS = {
    "suite": r"[a-z]{1,40}",
    "python": r"3\.[0-9]{1,2}\.[0-9]{1,2}",
    "glibc": r"2\.[0-9]{1,2}",
}

#: A valid part of a path in a definition: not hidden, not an option, not "..".
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MAX_PARTS = 8

#: The files that :func:`make_context` itself puts into a context.
_MADE = {"rootfs.tar", "wheels", "tools"}

#: Every time stamp in every image: 2025-01-01T00:00:00Z, an arbitrary fixed instant.
SOURCE_DATE_EPOCH = 1735689600


@dataclass(frozen=True)
class System:
    """The Debian release of an image, as far as it decides which Python packages fit.

    Attributes:
        suite: its name, as in ``bullseye``.
        python: the version of its Python, as in ``3.9.2``.
        glibc: the version of its C library, as in ``2.31``.
    """

    suite: str = "bullseye"
    python: str = "3.9.2"
    glibc: str = "2.31"

    @property
    def wheels(self) -> pypi.Machine:
        """What the choice of a wheel depends on."""
        from kiln.sources import pypi  # slow to import, and rarely needed

        python = self.python.rpartition(".")[0]
        return {"python": python, "platforms": pypi.platforms_of(self.glibc)}


@dataclass(frozen=True)
class Definition:
    """One image of ``docker/images.toml``.

    ``parent`` is the image it starts from, if any; ``debian`` and ``wheels`` are lock files,
    relative to ``docker/``; ``files`` are copied into the context, relative likewise. ``system`` is
    the parent's for an image that has one, else what the definition states, else Debian 11.
    """

    name: str
    folder: Path
    parent: str | None
    debian: Path | None
    wheels: tuple[Path, ...]
    tools: Path | None
    files: tuple[Path, ...]
    system: System = System()

    def inputs(self) -> tuple[Path, ...]:
        """List every file that decides the image's content (besides its parent)."""
        locks = [lock for lock in (self.debian, self.tools) if lock]
        return (self.folder / "Dockerfile", *self.files, *self.wheels, *locks)


def load(docker_dir: Path) -> dict[str, Definition]:
    """Load all image definitions, parents before children.

    Raises:
        ImageBuildError: ``images.toml`` is missing or damaged.
    """
    path = docker_dir / DEFINITIONS
    try:
        return parse(read_file(path, MAX_TOML_BYTES), docker_dir)
    except MalformedError as error:
        raise ImageBuildError(f"{path} {error}.", "Restore it from version control.") from error
    except OSError as error:
        raise ImageBuildError(
            f"{path} cannot be read ({error.strerror}).", "Restore it from version control."
        ) from error


def parse(text: bytes | str, docker_dir: Path) -> dict[str, Definition]:
    """Parse the definitions in an untrusted ``images.toml``.

    Nothing is opened; every path in the result is below ``docker_dir``.

    Raises:
        MalformedError: it is not TOML, or not a definition of images.
    """
    table = parse_toml(text)
    if len(table) > _MAX_IMAGES:
        raise MalformedError(f"defines more than {_MAX_IMAGES} images")
    found = {name: _definition(name, entry, docker_dir) for name, entry in table.items()}
    for name, item in found.items():
        _check_parents(name, item, found)
    return {name: replace(item, system=_first(item, found).system) for name, item in found.items()}


def _first(item: Definition, known: Mapping[str, Definition]) -> Definition:
    """Return the image without a parent that an image starts from, maybe by way of others."""
    return item if item.parent is None else _first(known[item.parent], known)


def _definition(name: str, entry: Any, docker_dir: Path) -> Definition:
    if not IMAGE_NAME.fullmatch(name):
        raise MalformedError(f"defines an image with an impossible name, {name[:80]!r}")
    if not isinstance(entry, dict) or not entry.keys() <= _FIELDS:
        raise MalformedError(f"has missing or unknown fields for the image {name!r}")

    def one(field: str) -> Path | None:
        return _inside(docker_dir, name, entry[field]) if field in entry else None

    def several(field: str) -> tuple[Path, ...]:
        paths = entry.get(field, [])
        if not isinstance(paths, list) or len(paths) > _MAX_PATHS:
            raise MalformedError(f"has no list of at most {_MAX_PATHS} {field} for {name!r}")
        return tuple(_inside(docker_dir, name, path) for path in paths)

    made = Definition(
        name=name,
        folder=docker_dir / name,
        parent=entry.get("parent"),
        debian=one("debian"),
        wheels=several("wheels"),
        tools=one("tools"),
        files=several("files"),
        system=_system(name, entry),
    )
    # A context is one folder: a second file of the same name would replace the first.
    taken = [*_MADE, *(path.name for path in made.inputs())]
    for file in taken:
        if taken.count(file) > 1:
            raise MalformedError(f"gives the image {name!r} two files called {file}")
    return made


def _system(image: str, entry: Mapping[str, Any]) -> System:
    """Read the Debian release that an image without a parent states.

    Raises:
        MalformedError: an image with a parent states one, or it has no such form.
    """
    if "system" not in entry:
        return System()
    stated = entry["system"]
    sound = (
        "parent" not in entry
        and isinstance(stated, dict)
        and stated.keys() == _SYSTEM_FORMS.keys()
        and all(
            isinstance(stated[field], str) and re.fullmatch(form, stated[field])
            for field, form in _SYSTEM_FORMS.items()
        )
    )
    if not sound:
        raise MalformedError(f"has an invalid system for the image {image!r}")
    return System(**stated)


def _inside(folder: Path, image: str, path: Any) -> Path:
    """Resolve a path in a definition; refuse it unless it is below ``folder``.

    Raises:
        MalformedError: it is absolute, leaves the folder, or has an unusual part.
    """
    parts = path.split("/") if isinstance(path, str) else []
    if not 1 <= len(parts) <= _MAX_PARTS or not all(_PART.fullmatch(part) for part in parts):
        shown = repr(path)[:80]
        raise MalformedError(f"has an impossible path for the image {image!r}, {shown}")
    return folder.joinpath(*parts)


def _check_parents(name: str, item: Definition, known: Mapping[str, Definition]) -> None:
    seen = {name}
    while item.parent is not None:
        if not isinstance(item.parent, str) or item.parent not in known:
            raise MalformedError(f"starts the image {name!r} from one that does not exist")
        if item.parent in seen:
            raise MalformedError(f"starts the image {name!r} from itself")
        seen.add(item.parent)
        item = known[item.parent]


def get(docker_dir: Path, name: str) -> Definition:
    """Return one image's definition.

    Raises:
        UsageError: there is no such image.
    """
    return _defined(load(docker_dir), name)


def _defined(definitions: Mapping[str, Definition], name: str) -> Definition:
    if name not in definitions:
        raise UsageError(f"There is no image {name!r}.", f"Known images: {', '.join(definitions)}.")
    return definitions[name]


def recipe_digest(docker_dir: Path, name: str) -> str:
    """Compute the digest of everything the image is built from, its parents included.

    Raises:
        ImageBuildError: one of the files is missing.
    """
    definitions = load(docker_dir)
    _defined(definitions, name)
    try:
        return digest_of_recipe(definitions, docker_dir, name, sha256_file)
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
    """Compute :func:`recipe_digest` with ``digest_of`` for the SHA-256 of a file.

    Exceptions of ``digest_of`` pass through; ``KeyError`` means that an image is not defined.
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
    # Debian 11's has no part in it, so that older definitions keep their digest.
    system = {} if definition.system == System() else {"system": asdict(definition.system)}
    return key_of(
        {"files": files, "roles": described, "parent": parent, "epoch": SOURCE_DATE_EPOCH, **system}
    )


def fetch(
    definition: Definition, store: Store, *, jobs: int = 4, on_progress: OnProgress | None = None
) -> dict[str, Mapping[str, str]]:
    """Fetch everything the image needs into the store: part -> file name -> SHA-256.

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
        wheels.update(
            pypi.fetch_lock(
                lock, store, jobs=jobs, on_progress=on_progress, **definition.system.wheels
            )
        )
    if wheels:
        parts["wheels"] = wheels
    if definition.tools:
        parts["tools"] = pypi.fetch_lock(
            definition.tools,
            store,
            jobs=jobs,
            on_progress=on_progress,
            **definition.system.wheels,
        )
    return parts


def make_context(
    definition: Definition, parts: Mapping[str, Mapping[str, str]], store: Store, folder: Path
) -> None:
    """Write a build context to ``folder``: Dockerfile, helper files, locks, wheels, rootfs.

    Everything comes from the store or from version control; a build needs nothing else.
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
