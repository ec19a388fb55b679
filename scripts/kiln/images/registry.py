"""Pull and push sealed images: fetched by name, trusted by identity only."""

from __future__ import annotations

import os
from pathlib import Path

import docker.errors

from kiln.core.errors import EngineFailedError, ImageMismatchError
from kiln.images import transfer
from kiln.images.archived import resealed
from kiln.images.lock import Locked
from kiln.running.engine import Engine


def registry() -> str | None:
    """Return the registry ``KILN_IMAGE_REGISTRY`` without a trailing slash."""
    return os.environ.get("KILN_IMAGE_REGISTRY", "").strip().rstrip("/") or None


def _repository(where: str, locked: Locked) -> tuple[str, str]:
    return f"{where}/{locked.name}", locked.tag.rpartition(":")[2]


def pull(engine: Engine, locked: Locked, where: str, scratch: Path) -> None:
    """Pull the locked image from a registry into the engine, under its own name.

    It is checked against the lock: the layer and the digest of the configuration. Where an engine
    does not report the latter, the image is sealed again and compared.

    Args:
        where: the registry, with a path if there is one.
        scratch: for what an engine exports.

    Raises:
        EngineFailedError: the registry has no such image or cannot be reached.
        ImageMismatchError: it has another one under this name; the engine does not keep it.
    """
    repository, tag = _repository(where, locked)
    reference = f"{repository}:{tag}"
    with engine.failures(f"fetching {reference}"):
        for message in engine.client.api.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in message:
                raise docker.errors.APIError(str(message["error"]))
    try:
        found = transfer.inspect(engine, reference)
        layers = found["RootFS"]["Layers"] if found else []
        if found is None or layers != [locked.layer]:
            raise ImageMismatchError(
                f"{reference} is not the sealed image {locked.name!r}: its layers are "
                f"{', '.join(layers) or 'none'}, not {locked.layer}.",
                "Tell the registry's operator.",
            )
        if found["Id"] == locked.identity:
            name, _, version = locked.tag.rpartition(":")
            with engine.failures("naming an image"):
                engine.client.api.tag(reference, name, version)
            return
        with resealed(engine, reference, locked, scratch) as chunks:
            for _ in chunks():
                pass  # reading to the end proves that it is the locked one
            transfer.load(engine, locked.name, chunks())
    finally:
        transfer.discard(engine, reference)


def push(engine: Engine, locked: Locked, where: str) -> str:
    """Push the locked image from the engine to a registry; return its name there.

    Raises:
        EngineFailedError: the registry refused.
    """
    repository, tag = _repository(where, locked)
    reference = f"{repository}:{tag}"
    with engine.failures(f"pushing {reference}"):
        engine.client.api.tag(locked.tag, repository, tag)
    try:
        with engine.failures(f"pushing {reference}"):
            for message in engine.client.api.push(repository, tag=tag, stream=True, decode=True):
                if "error" in message:
                    raise EngineFailedError(
                        f"The registry refused {reference}: {message['error']}.",
                        "`docker login` to it, or correct KILN_IMAGE_REGISTRY.",
                    )
    finally:
        transfer.discard(engine, reference)
    return reference
