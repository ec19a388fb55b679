"""Archives in the TensorFlow 2 detection zoo's layout, and recipes for them, made by the tests."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from kiln.store import StageResult, Store

TOP = "ssd_mobilenet_v2_random"
DATA = "checkpoint/ckpt-0.data-00000-of-00001"
INDEX = "checkpoint/ckpt-0.index"

RECIPE = """\
schema = 1
name = "{name}"
title = "Random SSD"
description = "A 90-class SSD MobileNet v2 with random weights."
licence = "Apache-2.0"
author = "tests"
version = "1"
architecture = "ssd"
image = "odapi"
variants = {variants}
{profile}
[source]
kind = "archive"
url = "{url}"
root = "{root}"
checkpoint = "checkpoint"
pipeline_config = "pipeline.config"
{pins}
[labels]
file = "../labels/{labels}"
{more}
"""


def files_of(result: StageResult, store: Store) -> dict[str, bytes]:
    """The model folder that the ``make_checkpoint`` stage wrote, by path."""
    return {
        name.removeprefix("model/"): store.path(blob.sha256).read_bytes()
        for name, blob in result.files.items()
    }


def pack(files: Mapping[str, bytes], path: Path, *, top: str = TOP) -> Path:
    """A ``.tar.gz`` as the zoo packs them: one top folder, folders before their files."""
    folders = sorted({str(Path(name).parent) for name in files} - {"."})
    with (
        path.open("wb") as file,
        gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for folder in ["", *folders]:
            info = tarfile.TarInfo(f"{top}/{folder}".rstrip("/"))
            info.type, info.mode = tarfile.DIRTYPE, 0o750
            tar.addfile(info)
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size, info.mode = len(data), 0o640
            tar.addfile(info, io.BytesIO(data))
    return path


def pack_entry(entry: tarfile.TarInfo, path: Path, data: bytes = b"") -> Path:
    """A ``.tar.gz`` with the top folder and one entry that does not belong there."""
    with tarfile.open(path, "w:gz") as tar:
        top = tarfile.TarInfo(TOP)
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return path


class Models:
    """A models folder of the tests' own, with the project's label maps and images.

    Args:
        folder: where; made here.
        project: where the label maps and images are copied from.
    """

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        shutil.copytree(project / "models" / "labels", folder / "labels")
        shutil.copytree(project / "models" / "samples" / "images", folder / "images")

    def add(
        self,
        name: str,
        archive: Path | str,
        *,
        variants: tuple[str, ...] = ("float32",),
        profile: str = "",
        labels: str = "mscoco.pbtxt",
        images: str = "images",
        root: str = TOP,
        pins: str = "",
        more: str = "",
    ) -> str:
        """Write a recipe for an archive (a path, or an address); returns the model's name."""
        url = archive if isinstance(archive, str) else archive.as_uri()
        if "int8" in variants:
            more += f'\n[calibration]\nimages = "../{images}"\n'
        text = RECIPE.format(
            name=name,
            variants=str(list(variants)).replace("'", '"'),
            profile=f'profile = "{profile}"\n' if profile else "",
            url=url,
            root=root,
            pins=pins,
            labels=labels,
            more=more,
        )
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "recipe.toml").write_text(text)
        return name
