"""A toy project all of whose inputs are in a store: packages, a sealed image, a model's archive."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from toy_packages import debian_package, wheel
from toy_project import add_recipe, make_project, small_archive
from training_folder import photo

from kiln.core.digest import sha256_bytes
from kiln.core.store import Store
from kiln.images import archived
from kiln.images.definition import SOURCE_DATE_EPOCH, recipe_digest
from kiln.images.lock import Locked, locked_image, write_lock
from kiln.images.seal import Sealer
from kiln.project.folders import Project
from kiln.recipes.recipe import load
from kiln.sources import pypi
from kiln.sources.model import acquire

Ended = subprocess.CompletedProcess[str]

IMAGES_TOML = """\
[base]
debian = "base/debian.lock"
[odapi]
parent = "base"
wheels = ["odapi/requirements.lock"]
tools = "build-tools.lock"
[device]
files = ["install.py"]
"""
COPYRIGHT = b"Format: https://www.debian.org/doc/\n\nFiles: *\nLicense: GPL-2+\n"
DEBS = {
    "toylib": debian_package(
        "toylib",
        "Maintainer: Ann Toy <ann@toy.example>\nDepends: toyc (>= 1) | other, toy-virtual:any\n",
        [("./usr/share/doc/toylib", "toyc")],
    ),
    "toyc": debian_package(
        "toyc",
        "Maintainer: Toy Team <team@toy.example>\nProvides: toy-virtual (= 1)\n",
        [("./usr/share/doc/toyc", None), ("./usr/share/doc/toyc/copyright", COPYRIGHT)],
    ),
}
WHEELS = {
    "Toy_One": wheel(
        "Toy_One",
        "1.0",
        "Author: Ann\nLicense: MIT\nRequires-Dist: toy-two>=1\n"
        "Requires-Dist: toy-tool; python_version < '3'\n",
    ),
    "toy-two": wheel("toy_two", "2.0", "License-Expression: MIT or apache-2.0\n"),
    "toy-tool": wheel("toy_tool", "3.0", "License: UNKNOWN\n"),
}
VERSIONS = {"Toy_One": "1.0", "toy-two": "2.0", "toy-tool": "3.0"}


@dataclass(frozen=True)
class Offline:
    project: Project
    store: Store

    def locked(self, name: str) -> Locked:
        return locked_image(self.project.docker, name)


def kiln(offline: Offline, store: Path, *arguments: str | Path) -> Ended:
    """The command, where neither an engine nor an index nor a mirror can be reached."""
    environment = {
        **os.environ,
        "KILN_PROJECT": str(offline.project.root),
        "KILN_STORE": str(store),
        "DOCKER_HOST": "unix:///nonexistent.sock",
        "KILN_IMAGE_REGISTRY": "",
        "KILN_PYPI_INDEX": "http://127.0.0.1:9/simple",
        "KILN_DEBIAN_MIRROR": "http://127.0.0.1:9/debian",
    }
    return subprocess.run(
        [sys.executable, "-m", "kiln.cli", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def filename(name: str) -> str:
    return f"{name.replace('-', '_')}-{VERSIONS[name]}-py3-none-any.whl"


def pin(name: str) -> pypi.Pin:
    return pypi.Pin(name, VERSIONS[name], frozenset({sha256_bytes(WHEELS[name])}))


def make_offline(root: Path, store_root: Path) -> Offline:
    """The project in ``root``, with a model ``toy``, and the store."""
    project = make_project(root)
    store = Store(store_root)
    docker = project.docker
    (docker / "images.toml").write_text(IMAGES_TOML)
    (docker / "base").mkdir()
    (docker / "base" / "Dockerfile").write_text("FROM scratch\n")
    lines = [
        f"{name} 1.0 amd64 {store.add_bytes(data)} {len(data)} debian pool/{name}_1.0_amd64.deb"
        for name, data in DEBS.items()
    ]
    (docker / "base" / "debian.lock").write_text("\n".join(lines) + "\n")
    for path, names in (
        ("odapi/requirements.lock", ["Toy_One", "toy-two"]),
        ("build-tools.lock", ["toy-tool"]),
    ):
        text = ""
        for name in names:
            digest = store.add_bytes(WHEELS[name])
            pypi.remember(store, pin(name), pypi.Chosen(filename(name), digest))
            text += f"{name}=={VERSIONS[name]} --hash=sha256:{digest}\n"
        (docker / path).write_text(text)
    for name in ("base", "odapi", "device"):
        _seal(docker, store, name)
    path = root / "archive.tar.gz"
    recipe = add_recipe(project, "toy", small_archive(path))
    (project.sample_images).mkdir(parents=True)
    (project.sample_images / "one.png").write_bytes(photo())
    acquire(load(recipe, project.models), store)
    path.unlink()  # from now on it is nowhere but in the store
    return Offline(project, store)


def _seal(docker: Path, store: Store, name: str) -> None:
    exported = io.BytesIO()
    with tarfile.open(fileobj=exported, mode="w") as tar:
        info = tarfile.TarInfo("bin/what")
        info.size = len(name)
        tar.addfile(info, io.BytesIO(name.encode()))
    exported.seek(0)
    settings = {"Cmd": ["/bin/sh"], "Env": ["TZ=UTC"], "WorkingDir": "/"}
    sealer = Sealer(exported, settings, epoch=SOURCE_DATE_EPOCH, repository=f"tflite-kiln/{name}")
    archive = b"".join(sealer.archive())
    assert sealer.sealed is not None
    locked = write_lock(docker, name, sealer.sealed, recipe_digest(docker, name))
    archived.remember(store, locked, store.add_bytes(archive))
