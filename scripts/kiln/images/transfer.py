"""Inspect, export and load images in an engine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import docker.errors

from kiln.core.errors import ImageBuildError
from kiln.core.lease import tagged_name
from kiln.images.leftovers import local_name
from kiln.images.lock import Locked
from kiln.images.seal import spool
from kiln.running.engine import OWNER_LABEL, Engine


def inspect(engine: Engine, reference: str) -> dict[str, Any] | None:
    """Return the engine's data about an image; None where it has none of that name."""
    try:
        with engine.failures("looking for an image"):
            found: dict[str, Any] = engine.client.api.inspect_image(reference)
            return found
    except Exception as error:
        if isinstance(error.__cause__, docker.errors.ImageNotFound):
            return None
        raise


def present(engine: Engine, locked: Locked) -> bool:
    """Whether the engine holds exactly this sealed image."""
    found = inspect(engine, locked.tag)
    # The id is the configuration's digest on one storage backend and a manifest's on the other;
    # the layer is the same on both, and the tag is only given to this identity.
    return found is not None and found["RootFS"]["Layers"] == [locked.layer]


def tags(engine: Engine, repository: str) -> set[str]:
    """List the tags of one repository that the engine holds."""
    with engine.failures("listing images"):
        found = engine.client.api.images(name=repository)
    return {local_name(tag) for item in found for tag in item["RepoTags"] or ()}


@contextlib.contextmanager
def exported(
    engine: Engine, image: str, scratch: Path
) -> Iterator[tuple[IO[bytes], dict[str, Any]]]:
    """Export an image's file system, seekable, together with the image's settings.

    Args:
        scratch: a folder for the file, which is as large as the image, while the body runs.
    """
    api = engine.client.api
    with tempfile.TemporaryFile(dir=scratch) as file:
        with engine.failures("exporting an image"):
            container = api.create_container(
                image, command=["/bin/true"], labels={OWNER_LABEL: tagged_name()}
            )["Id"]
            try:
                spool(api.export(container, chunk_size=1 << 21), file)
            finally:
                with contextlib.suppress(docker.errors.DockerException):
                    api.remove_container(container, force=True)
            settings = api.inspect_image(image)["Config"]
        yield file, settings


def load(engine: Engine, name: str, archive: Iterable[bytes]) -> None:
    """Load an archive of image ``name`` into the engine.

    Raises:
        ImageBuildError: it refused.
    """
    with engine.failures("loading an image"):
        for message in engine.client.api.load_image(archive):
            if "error" in message:
                raise ImageBuildError(
                    f"The engine refused the sealed image {name!r}: {message['error']}.",
                    "Check the engine's log, then run the command again.",
                )


def discard(engine: Engine, reference: str) -> None:
    """Remove an image's name, and the image with its last name; failures are ignored."""
    with contextlib.suppress(docker.errors.DockerException):
        engine.client.api.remove_image(reference, force=True)
