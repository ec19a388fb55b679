"""Inspect, read out, import and load images in an engine."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import docker.errors

from kiln.core.errors import ImageBuildError
from kiln.core.lease import tagged_name
from kiln.core.untrusted import MalformedError, parse_json_object
from kiln.images.listing import local_name
from kiln.images.lock import Locked
from kiln.images.seal import spool
from kiln.running.engine import OWNER_LABEL, Engine

_CHUNK = 2 << 20
_IMAGE_ID = re.compile("(?:sha256:)?[0-9a-f]{64}")


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
    """Read out an image's file system, seekable, together with the image's settings.

    Args:
        scratch: a folder for the file, which is as large as the image, while the body runs.
    """
    api = engine.client.api
    with tempfile.TemporaryFile(dir=scratch) as file:
        with engine.failures("reading out an image"):
            container = api.create_container(
                image, command=["/bin/true"], labels={OWNER_LABEL: tagged_name()}
            )["Id"]
            try:
                # Docker 26.1 never frees the layers of a container that was exported.
                chunks = (
                    api.export(container, chunk_size=_CHUNK)
                    if engine.is_podman
                    else api.get_archive(container, "/", chunk_size=_CHUNK)[0]
                )
                spool(chunks, file)
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
        for message in engine.client.api.load_image(iter(archive)):
            if "error" in message:
                raise ImageBuildError(
                    f"The engine refused the sealed image {name!r}: {message['error']}.",
                    "Check the engine's log, then run the command again.",
                )


def reuses_layers(engine: Engine) -> bool:
    """Whether an archive may lack a layer that the engine has: Docker with a storage driver."""
    if engine.is_podman:
        return False
    with engine.failures("describing itself"):
        status = engine.client.info().get("DriverStatus") or []
    return not any("containerd" in str(value) for _, value in status)


def import_layer(engine: Engine, chunks: Iterable[bytes]) -> str:
    """Make an image of one uncompressed layer; return its id.

    Its configuration is the engine's own: it is a step on the way to another image. The engine
    writes the layer once; in an archive (:func:`load`) it would write it twice.

    Raises:
        ImageBuildError: the engine refused.
    """
    with engine.failures("importing a layer"):
        answer = engine.client.api.import_image(
            chunks, changes=[f"LABEL {OWNER_LABEL}={tagged_name()}"], stream_src=True
        )
    for line in reversed(str(answer).splitlines()):
        with contextlib.suppress(MalformedError):
            message = parse_json_object(line)
            if "error" in message:
                raise ImageBuildError(
                    f"The engine refused an image's layer: {message['error']}.",
                    "Check the engine's log and its disk, then run the command again.",
                )
            if _IMAGE_ID.fullmatch(str(message.get("status", ""))):
                return str(message["status"])
    raise ImageBuildError(
        "The engine imported an image's layer without an answer.",
        "Check the engine's log, then run the command again.",
    )


def discard(engine: Engine, reference: str) -> None:
    """Remove an image's name, and the image with its last name; failures are ignored."""
    with contextlib.suppress(docker.errors.DockerException):
        engine.client.api.remove_image(reference, force=True)
