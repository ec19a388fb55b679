"""Check one by one what kiln needs of this machine (``kiln doctor``)."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from kiln.core.errors import DiskFullError, KilnError
from kiln.core.files import system_guard
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.images.definition import load as load_images
from kiln.images.lock import locked_image
from kiln.project.folders import Project
from kiln.recipes.recipe import discover
from kiln.recipes.selection import read_all
from kiln.running.engine import Engine
from kiln.signing.keys import (
    PASSWORD_VARIABLE,
    PEM_VARIABLE,
    default_key_path,
    is_locked,
    load_or_create_key,
    own_key_path,
    refuse_open_folders,
)

#: Wheels, image layers and intermediate files of a first build, measured: about 6 GB.
DISK_WANTED = 10 << 30


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``state`` is ``ok``, ``note`` or ``PROBLEM``."""

    what: str
    state: str
    detail: str
    remedy: str = ""
    error: KilnError | None = None


def examine(project: Project, *, worker: bool = False) -> list[Finding]:
    """Run all checks; never raises a :class:`KilnError`, a problem is a finding.

    Args:
        worker: only what a cluster's worker needs, which signs nothing and reads no recipes; it
            sees to its images itself.
    """
    findings: list[Finding] = []

    def look(what: str, check: Callable[[], Finding | str]) -> bool:
        try:
            with system_guard():
                found = check()
        except KilnError as error:
            findings.append(Finding(what, "PROBLEM", error.message, error.remedy, error))
            return False
        findings.append(found if isinstance(found, Finding) else Finding(what, "ok", found))
        return True

    def store() -> str:
        found = Store(Store.default_root())
        return f"{found.root}, {found.usage() / 1e9:.2f} GB"

    look("store", store)
    look("disk", _disk)
    if not worker:
        look("signing key", _key)
        look("recipes", lambda: _recipes(project))
    look("image locks", lambda: _locks(project))
    look("architecture", _architecture)
    if look("engine", lambda: Engine.find().describe()):
        look("engine's files", _files)
        look("engine's limits", _limits)
        if not worker:
            look("images", lambda: _images(project))
    return findings


def _disk() -> str:
    root = Store.default_root()
    place = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < DISK_WANTED:
        raise DiskFullError(
            f"{free / 1e9:.1f} GB free at {place}; a first build needs {DISK_WANTED / 1e9:.0f}.",
            "Free some space, or set KILN_STORE to a folder on another disk.",
        )
    return f"{free / 1e9:.0f} GB free at {place}"


def _key() -> Finding | str:
    path = own_key_path()
    if not os.environ.get(PEM_VARIABLE):
        if path == default_key_path() and not path.exists():
            # The first build restricts the folder; folders above it are not ours.
            refuse_open_folders(path.parent)
            return Finding("signing key", "note", f"none yet; the first build makes {path}")
        if is_locked(path) and not os.environ.get(PASSWORD_VARIABLE):
            what = f"{path} is locked with a password"
            return Finding("signing key", "note", what, f"Set {PASSWORD_VARIABLE} for a build.")
    key = load_or_create_key()
    return f"{key.private_path}, key {key.key_id[:16]}"


def _recipes(project: Project) -> Finding | str:
    if project.package is not None and not project.models.is_dir():
        return Finding(
            "recipes",
            "note",
            f"none here: there is no {project.models}",
            "`kiln init` writes one; `kiln convert` needs none.",
        )
    found = read_all(project.models, discover(project.models))
    return f"{len(found.unbroken())} readable"


def _locks(project: Project) -> str:
    names = list(load_images(project.docker))
    for name in names:
        locked_image(project.docker, name)
    return f"{', '.join(names)} match their sources"


def _architecture() -> Finding | str:
    machine = platform.machine()
    if machine in {"x86_64", "AMD64"}:
        return machine
    return Finding(
        "architecture",
        "note",
        f"{machine}: the images are for x86-64 and will run under emulation, slowly",
    )


def _files() -> Finding | str:
    store = Store(Store.default_root())
    with store.scratch() as folder:
        if Engine.find().sees(folder):
            return f"sees those of this machine, {store.root}"
    return Finding(
        "engine's files",
        "note",
        f"this engine does not see those of this machine, {store.root}",
        "Inputs and results are copied (docs/security.md#engines-elsewhere).",
    )


def _limits() -> Finding | str:
    missing = Engine.find().limits_missing
    if missing:
        return Finding(
            "engine's limits",
            "note",
            f"this engine does not limit {' and '.join(missing)}: it has no cgroups",
            "It runs stages all the same; docs/security.md says what to do.",
        )
    return "memory and processes"


def _images(project: Project) -> Finding | str:
    engine = Engine.find()
    images = Images(project.docker, lambda: engine, Store(Store.default_root()))
    missing = [
        name
        for name in load_images(project.docker)
        if not images.present(locked_image(project.docker, name))
    ]
    if missing:
        return Finding(
            "images",
            "note",
            f"not built yet: {', '.join(missing)}",
            "The next build builds them; `kiln images build` builds them now.",
        )
    return "all present, as locked"
