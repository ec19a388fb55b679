"""Containers by owner, asked of the engine without kiln's own code; and engines of our own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import docker
import docker.errors

OWNER = "org.tflite-kiln.owner"


def containers_of(address: str, pid: int) -> list[str]:
    """Ids of containers that the kiln process ``pid`` made and that are still there."""
    with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
        found = client.api.containers(all=True, filters={"label": OWNER})
    return [str(item["Id"]) for item in found if item["Labels"][OWNER].startswith(f"{pid}-")]


def remove(address: str, names: Iterable[str]) -> None:
    """Remove these containers, so that what one case left is not found by the next."""
    with contextlib.closing(docker.DockerClient(base_url=address, timeout=60)) as client:
        for name in names:
            with contextlib.suppress(docker.errors.APIError):
                client.api.remove_container(name, force=True, v=True)
