"""Build ``source.tar``: everything that decides a model's bytes, in one reproducible archive.

It holds ``docker/`` (image definitions, locks and stage code), ``scripts/``, the files beside
them, and the recipe with the text files it names. Weights and images are not included: they are
inputs, named by digest in the provenance. Where kiln is installed as a package, the package is at
``scripts/kiln/`` in the archive, so the code of the build is always included.
"""

from __future__ import annotations

import fnmatch
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kiln.core.deterministic_tar import TarEntry, deterministic_tar
from kiln.core.digest import CACHE_PATTERNS, sha256_bytes
from kiln.core.errors import RecipeError, StoreError
from kiln.core.untrusted import parse_toml
from kiln.images.definition import SOURCE_DATE_EPOCH
from kiln.project.folders import DATA, PACKAGE, Project, is_installed
from kiln.recipes.recipe import RECIPE_FILE, Recipe
from kiln.statements.source_archive_reader import (
    DRIVER,
    MAX_BYTES,
    MAX_ENTRIES,
    SourceArchive,
    is_possible,
)

#: A string of one line in TOML.
_STRING = re.compile(r""" "(?:[^"\\\n]|\\.)*" | '[^'\n]*' """, re.VERBOSE)

_FILES = ("pyproject.toml", "Makefile", "LICENSE", "NOTICE")

#: Leftovers of installing and running in ``scripts/``. In ``docker/`` only caches are skipped: the
#: digest of the stage code covers everything else.
_LEFT_BY_TOOLS = (*CACHE_PATTERNS, "*.egg-info", ".*")

#: Most bytes of a text file beside a recipe; a label map of 10,000 classes has half as many.
MAX_TEXT = 1 << 20


def source_archive(project: Project, recipe: Recipe) -> bytes:
    """Build the archive for one recipe: the bytes of :func:`archived_sources`."""
    return archived_sources(project, recipe)[0]


def archived_sources(project: Project, recipe: Recipe) -> tuple[bytes, SourceArchive]:
    """Build the archive for one recipe, and tell its contents as one who reads it would.

    Same contents, same bytes, whatever times, owners and umask.

    A recipe below the project's models folder keeps its path, another goes to ``models/<name>/``.
    Its text is the text that was read, even if the file has changed since.

    Raises:
        StoreError: a file cannot be read, or is a link, a device or of a name that is not
            printable UTF-8; or there are more files than a reader takes.
        RecipeError: see :func:`published_recipe`.
    """
    try:
        entries = list(_entries(project))
        entries += _recipe_entries(project, recipe)
        out = io.BytesIO()
        deterministic_tar(out, entries, mtime=SOURCE_DATE_EPOCH)
    except OSError as error:
        raise StoreError(
            f"The sources cannot be archived: {error.filename or project.root}: "
            f"{error.strerror or error}.",
            "Check the file's permissions and run again.",
        ) from error
    data = out.getvalue()
    if len(data) > MAX_BYTES or len(entries) > MAX_ENTRIES:
        raise StoreError(
            f"The sources are too many to be released with a model: {len(entries):,} files, "
            f"{len(data):,} bytes.",
            "Move out of docker/ and scripts/ what does not belong there.",
        )
    files = {entry.name: entry.source for entry in entries if isinstance(entry.source, bytes)}
    executable = frozenset(entry.name for entry in entries if entry.executable)
    return data, SourceArchive(sha256_bytes(data), files, executable)


def archived_recipe_path(project: Project, recipe: Recipe) -> str:
    """Return the recipe's path in the archive, such as ``models/samples/toy/recipe.toml``."""
    path = recipe.file.path
    if path.is_relative_to(project.models.absolute()):
        return f"models/{path.relative_to(project.models.absolute()).as_posix()}"
    return f"models/{path.parent.name}/{RECIPE_FILE}"


def _entries(project: Project) -> Iterator[TarEntry]:
    if project.docker.is_dir():
        yield from _below(project.docker, "docker/", CACHE_PATTERNS)
    if is_installed():
        yield from _below(PACKAGE, DRIVER, (*_LEFT_BY_TOOLS, DATA.name))
    elif (project.root / "scripts").is_dir():
        yield from _below(project.root / "scripts", "scripts/", _LEFT_BY_TOOLS)
    root = project.root if project.package is None else project.package
    for name in _FILES:
        if (root / name).is_file():
            yield TarEntry(name, (root / name).read_bytes())


def _below(folder: Path, prefix: str, patterns: tuple[str, ...]) -> Iterator[TarEntry]:
    with os.scandir(folder) as scan:
        for item in scan:
            if any(fnmatch.fnmatchcase(item.name, pattern) for pattern in patterns):
                continue
            path = Path(item.path)
            mode = item.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _below(path, f"{prefix}{item.name}/", patterns)
            elif stat.S_ISREG(mode) and _is_utf8(item.name) and is_possible(item.name):
                executable = bool(mode & stat.S_IXUSR)
                yield TarEntry(f"{prefix}{item.name}", path.read_bytes(), executable)
            else:
                raise StoreError(
                    f"{path} is not a plain file (or its name is not printable UTF-8), and the "
                    "sources of a release are archived with it.",
                    "Replace it by a plain file, or move it out of the checkout.",
                )


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _recipe_entries(project: Project, recipe: Recipe) -> list[TarEntry]:
    path = recipe.file.path
    entries = {archived_recipe_path(project, recipe): published_recipe(recipe)}
    models = project.models.absolute()
    if not path.is_relative_to(models):
        return [TarEntry(name, data) for name, data in entries.items()]
    local = recipe.local_paths()
    for relative in (local.get("labels.file"), local.get("source.pipeline_config")):
        file = Path(os.path.normpath(path.parent / relative)) if relative else None
        if file is None or not file.is_relative_to(models) or not file.is_file():
            continue
        data = file.read_bytes() if file.stat().st_size <= MAX_TEXT else b"\0"
        if _is_text(data):
            entries[f"models/{file.relative_to(models).as_posix()}"] = data
    return [TarEntry(name, data) for name, data in entries.items()]


def published_recipe(recipe: Recipe) -> bytes:
    """Return the recipe as it is archived, without this machine's absolute paths.

    An absolute path (only recipes of a user's own files may have some) becomes its last part.
    Files count by digest; where they were is private.

    Raises:
        RecipeError: such a path is in a comment, or in a string of several lines.
    """
    private = {path for path in recipe.local_paths().values() if path.startswith("/")}
    if not private:
        return recipe.file.data

    def shorter(match: re.Match[str]) -> str:
        try:
            value = parse_toml(f"x = {match[0]}")["x"]
        except ValueError:
            return match[0]
        return json.dumps(PurePosixPath(value).name) if value in private else match[0]

    text = _STRING.sub(shorter, recipe.file.data.decode("utf-8"))
    if any(path in text for path in private):
        raise RecipeError(
            f"The recipe of {recipe.name!r} has an absolute path in a comment or in a "
            "multi-line string; the release would publish it.",
            "Write the path only as a plain string.",
        )
    return text.encode("utf-8")


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False
