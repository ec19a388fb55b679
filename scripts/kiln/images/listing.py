"""List the images that an engine holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kiln.running.engine import Engine


@dataclass(frozen=True)
class ListedImage:
    """What an engine's list says of an image."""

    id: str
    names: tuple[str, ...]
    labels: Mapping[str, str]


def listed(engine: Engine, *, intermediate: bool = False, **filters: str) -> list[ListedImage]:
    """List images in one request.

    The client's own list asks for each of them again, and fails if one was removed meanwhile.

    Args:
        intermediate: also those that are only layers of others.
        filters: the engine's own, such as ``label`` and ``reference``.

    Raises:
        EngineFailedError: the engine does not answer.
    """
    with engine.failures("listing images"):
        found = engine.client.api.images(all=intermediate, filters=filters)
    return [
        ListedImage(
            str(item["Id"]),
            tuple(name for name in item.get("RepoTags") or () if name != "<none>:<none>"),
            dict(item.get("Labels") or {}),
        )
        for item in found
    ]


def local_name(name: str) -> str:
    """Return an image's name as Docker writes it: Podman puts ``localhost/`` before its own.

    >>> local_name("localhost/tflite-kiln/base:0123")
    'tflite-kiln/base:0123'
    """
    return name.removeprefix("localhost/")
