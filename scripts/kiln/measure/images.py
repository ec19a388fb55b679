"""Read a data set's images in chunks, and leave out those that a stage could not use.

Each image is read once: its digest is part of the keys of all that is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kiln.core import machine
from kiln.core.digest import key_of, sha256_file
from kiln.measure import coco
from kiln.measure.coco import DataSet, Picture
from kiln.measure.workbench import Workbench
from kiln.project.stagecode import stage_module
from kiln.recipes.steps import Files

#: Allowed deviation of the aspect ratio from the annotated one: rounding of a resized copy.
_RATIO = 0.02

#: Reading an image takes milliseconds; an event for each would flood the output.
_TELL_EVERY = 20

#: Kind of the store's ref that lists the damaged images of a chunk.
_CHECKED = "checked-images"


@dataclass(frozen=True)
class Chunk:
    """Some usable images of a data set, with their digests; ``number`` counts from 1."""

    number: int
    digests: Mapping[Picture, str]

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The images by file name."""
        return tuple(self.digests)

    @property
    def images(self) -> Files:
        """The images as a stage's input."""
        return Files({picture.name: digest for picture, digest in self.digests.items()})


def read(
    bench: Workbench, model: str, data: DataSet, chosen: tuple[Picture, ...], size: int
) -> tuple[Chunk, ...]:
    """Digest images, ``size`` at a time, and check that each can be decoded.

    Args:
        model: the name to report progress under.

    Raises:
        ImageSetError: too many of them are missing or damaged.
    """
    unusable: dict[str, str] = {}
    parts = []
    done = 0
    for number, pictures in enumerate(coco.chunks(chosen, size), 1):
        digests: dict[Picture, str] = {}
        for picture in pictures:
            _progress(bench, model, done, len(chosen), picture.file)
            done += 1
            try:
                digests[picture] = sha256_file(data.path(picture))
            except FileNotFoundError:
                unusable[picture.file] = "missing"
            except OSError as error:
                unusable[picture.file] = error.strerror or str(error)
        damaged = _damaged(bench, model, data, digests)
        unusable.update({picture.file: why for picture, why in damaged.items()})
        good = {picture: d for picture, d in digests.items() if picture not in damaged}
        if good:
            parts.append(Chunk(number, good))
    warning = coco.check_usable(unusable, len(chosen), data.folder)
    if warning:
        bench.note(f"{model}: warning: {warning}")
    return tuple(parts)


def _damaged(
    bench: Workbench, model: str, data: DataSet, digests: Mapping[Picture, str]
) -> dict[Picture, str]:
    """Find a chunk's images that a stage could not use, and why; cached in the store."""
    described = {p.name: [digest, p.height, p.width] for p, digest in digests.items()}
    name = key_of(
        {"decoder": sha256_file(Path(stage_module("files.pixels").__file__)), **described}
    )
    known = bench.store.get_ref(_CHECKED, name)
    if known is None:
        found = {}
        with ThreadPoolExecutor(machine.processors(), thread_name_prefix="image") as pool:
            faults = pool.map(lambda picture: fault(data.path(picture), picture), digests)
            for number, (picture, why) in enumerate(zip(digests, faults, strict=True)):
                _progress(bench, model, number, len(digests), f"decoding {picture.file}")
                if why:
                    found[picture.name] = why
        known = {"damaged": found}
        bench.store.set_ref(_CHECKED, name, known)
    return {p: known["damaged"][p.name] for p in digests if p.name in known["damaged"]}


def _progress(bench: Workbench, model: str, done: int, total: int, message: str) -> None:
    if done % _TELL_EVERY:
        return
    bench.builder.on_event(
        "stage",
        model=model,
        id="images",
        state="progress",
        done=done,
        total=total,
        message=message,
    )


def fault(path: Path, picture: Picture) -> str:
    """Return why an image cannot be used; empty if it can."""
    pixels = stage_module("files.pixels")
    if path.suffix.lower() not in pixels.SUFFIXES:
        return f"not one of {', '.join(pixels.SUFFIXES)}"
    try:
        height, width = pixels.load_rgb(path).shape[:2]
    except stage_module("protocol.failures").StageError as error:
        return str(error.message).partition(" cannot be read: ")[2].rstrip(".") or error.message
    if abs(height / width * picture.width / picture.height - 1) > _RATIO:
        annotated = f"{picture.width} x {picture.height}"
        return f"it is {width} x {height} pixels, annotated as {annotated}"
    return ""
