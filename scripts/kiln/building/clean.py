"""Remove leftovers of killed runs and, on request, everything that kiln keeps."""

from __future__ import annotations

import contextlib
from pathlib import Path

import docker.errors

from kiln.core.errors import EngineUnavailableError
from kiln.core.files import count_files, remove
from kiln.core.lease import is_abandoned, is_ours
from kiln.core.store import Store
from kiln.running.engine import OWNER_LABEL, Engine


def clean(store: Store, *, empty_store: bool, drop_images: bool) -> dict[str, int]:
    """Remove leftovers; return what was removed, with counts.

    Args:
        empty_store: also every download, blob and result.
        drop_images: also the sealed images.
    """
    removed = {"scratch folders": store.sweep()}
    try:
        engine = Engine.find()
    except EngineUnavailableError:
        engine = None
    if engine is not None:
        removed["containers"] = engine.sweep(foreign=True)
        removed["unfinished images"] = _unfinished_images(engine)
        if drop_images:
            removed["sealed images"] = _sealed_images(engine)
    if empty_store:
        count = 0
        for folder in ("blobs", "results", "refs", "downloads", "logs", "kept"):
            path = store.root / folder
            if path.exists():
                count += count_files(path)
                remove(path)
        removed["stored files"] = count
    return removed


def _unfinished_images(engine: Engine) -> int:
    with engine.failures("listing images"):
        # Intermediate layers too: a killed build leaves them.
        found = engine.client.images.list(all=True, filters={"label": OWNER_LABEL})
    tags = {str(image.id): image.labels.get(OWNER_LABEL, "") for image in found}
    # Another kiln may be about to seal an image that it just built.
    return sum([_drop(engine, item) for item, tag in tags.items() if not _lives(tag)])


def _lives(tag: str) -> bool:
    return is_ours(tag) and not is_abandoned(Path(tag))


def _sealed_images(engine: Engine) -> int:
    with engine.failures("listing images"):
        found = engine.client.images.list(filters={"reference": "tflite-kiln/*"})
    # The same image may have names that users gave it.
    tags = [tag for image in found for tag in image.tags if tag.startswith("tflite-kiln/")]
    return sum([_drop(engine, tag) for tag in tags])


def _drop(engine: Engine, name: str) -> int:
    with contextlib.suppress(docker.errors.DockerException):
        engine.client.images.remove(name, force=True)
        return 1
    return 0
