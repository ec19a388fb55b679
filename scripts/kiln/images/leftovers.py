"""Remove what image builds left in an engine: intermediate and unsealed images."""

from __future__ import annotations

import contextlib
from pathlib import Path

import docker.errors

from kiln.core.lease import is_abandoned, is_ours
from kiln.images.listing import listed, local_name
from kiln.running.engine import OWNER_LABEL, Engine


def remove_unfinished(engine: Engine, *, foreign: bool = False) -> int:
    """Remove the images of builds whose process is dead; return how many.

    Args:
        foreign: also those whose process cannot be seen from here (it started before the last
            boot, or inside another container).
    """
    tags = _labelled(engine)
    gone = [
        image
        for image, tag in tags.items()
        if is_abandoned(Path(tag)) or (foreign and not is_ours(tag))
    ]
    return sum([_drop(engine, image) for image in gone])


def remove_failed(engine: Engine, tag: str) -> None:
    """Remove what a failed build left: Podman keeps its layers, and Docker's classic builder, too.

    Args:
        tag: the build's value of the owner's label.
    """
    for image in [image for image, owner in _labelled(engine).items() if owner == tag]:
        _drop(engine, image)


def remove_sealed(engine: Engine) -> int:
    """Remove our names of sealed images, and those images that have no other; return how many."""
    # The same image may have names that users gave it.
    names = [name for image in listed(engine, reference="tflite-kiln/*") for name in image.names]
    ours = [name for name in names if local_name(name).startswith("tflite-kiln/")]
    return sum([_drop(engine, name) for name in ours])


def _labelled(engine: Engine) -> dict[str, str]:
    """Return all images with the owner's label, intermediate ones too: id to owner's tag."""
    found = listed(engine, intermediate=True, label=OWNER_LABEL)
    return {image.id: image.labels.get(OWNER_LABEL, "") for image in found}


def _drop(engine: Engine, name: str) -> int:
    with contextlib.suppress(docker.errors.DockerException):
        engine.client.images.remove(name, force=True)
        return 1
    return 0
