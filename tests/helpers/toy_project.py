"""A small project laid out like a checkout, so that tests need not touch the real one."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from training_folder import CONFIG as PIPELINE

from kiln.core.digest import canonical_json, sha256_bytes
from kiln.images.definition import recipe_digest
from kiln.images.lock import write_lock
from kiln.images.seal import FileFact, Sealed
from kiln.project.folders import Project


def sealed(digit: str) -> Sealed:
    """A small image, by the digits of its layer."""
    layer = f"sha256:{digit * 64}"
    config = canonical_json({"rootfs": {"diff_ids": [layer], "type": "layers"}})
    return Sealed(
        identity=f"sha256:{sha256_bytes(config)}",
        layer=layer,
        config=config,
        size=1024,
        contents=(FileFact("bin", "d", 0o755, "0:0", 0, ""),),
    )


SEALED, DEVICE = sealed("b"), sealed("d")

RECIPE = """\
schema = 1
name = "{name}"
title = "A toy"
description = "Nothing."
licence = "Apache-2.0"
author = "Nobody"
version = "1"
architecture = "ssd"
image = "odapi"
variants = {variants}
sample = {sample}
[source]
kind = "archive"
url = "{url}"
root = "toy"
checkpoint = "checkpoint"
pipeline_config = "pipeline.config"
[labels]
file = "labels.pbtxt"
"""


def make_project(root: Path) -> Project:
    """Two images without a parent, locked; one stage file; no recipes."""
    docker = root / "docker"
    docker.mkdir(parents=True)
    (docker / "images.toml").write_text(
        '[odapi]\nfiles = ["install.py"]\n[device]\nfiles = ["install.py"]\n'
    )
    (docker / "install.py").write_text("print()\n")
    for name in ("odapi", "device"):
        (docker / name).mkdir()
        (docker / name / "Dockerfile").write_text("FROM scratch\n")
    (docker / "stages").mkdir()
    (docker / "stages" / "__main__.py").write_text("print()\n")
    (root / "models").mkdir()
    for name, image in (("odapi", SEALED), ("device", DEVICE)):
        write_lock(docker, name, image, recipe_digest(docker, name))
    return Project(root)


def add_recipe(
    project: Project,
    name: str,
    url: str = "file:///nowhere.tar.gz",
    sample: bool = False,
    variants: str = '["float32"]',
) -> Path:
    """A recipe that is in order; its archive is at ``url``."""
    folder = project.models / name
    folder.mkdir()
    path = folder / "recipe.toml"
    text = RECIPE.format(name=name, url=url, sample=str(sample).lower(), variants=variants)
    path.write_text(text)
    (folder / "labels.pbtxt").write_text("item { id: 1 name: 'cat' }\n")
    return path


def small_archive(path: Path) -> str:
    """A small archive in the zoo's layout; returns its address."""
    with tarfile.open(path, "w:gz") as tar:
        for name in ("pipeline.config", "checkpoint/ckpt-0.index", "checkpoint/ckpt-0.data"):
            data = PIPELINE.encode() if name == "pipeline.config" else b"abc"
            info = tarfile.TarInfo(f"toy/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.as_uri()
