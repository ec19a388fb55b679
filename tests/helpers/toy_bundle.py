"""Bundles of a small project, written and refused."""

from __future__ import annotations

import io
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from toy_offline import Offline

from kiln.bundle.contents import Contents, locked_images
from kiln.bundle.reading import import_bundle
from kiln.bundle.writing import write
from kiln.core.errors import ArchiveError, KilnError
from kiln.core.store import Store
from kiln.images.builder import Images
from kiln.recipes.recipe import load
from kiln.running.engine import Engine

HUB = "efficientdet_lite0_320x320_seed"


def without_engine() -> Engine:
    raise AssertionError("no engine is needed")


def silent(*_: object, **__: object) -> None:
    """Hears nothing."""


def create(offline: Offline, target: Path, *, images: bool = True) -> Path:
    project = offline.project
    with ExitStack() as stack:
        contents = Contents(project, offline.store, silent, stack)
        contents.add_model(load(project.models / "toy" / "recipe.toml"))
        contents.add_packages(project.docker, ["odapi", "device"])
        if images:
            known = Images(project.docker, without_engine, offline.store)
            for locked in locked_images(project.docker, ["odapi", "device"]):
                contents.add_image(known, locked)
        write(target, contents.index(), contents.readers, silent)
    return target


def refused(data: bytes, tmp_path: Path, kind: type[KilnError] = ArchiveError) -> str:
    """The message; the store has whole contents and remembers nothing."""
    path = tmp_path / "damaged.tar"
    path.write_bytes(data)
    store = Store(tmp_path / "refusing")
    with pytest.raises(kind) as caught:
        import_bundle(path, store)
    assert caught.value.remedy
    assert store.verify() == []
    assert list(store.tmp.iterdir()) == []
    assert list((store.root / "refs").iterdir()) == []
    return caught.value.message


def members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(info, (tar.extractfile(info) or io.BytesIO()).read()) for info in tar]


def packed_again(found: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in found:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
