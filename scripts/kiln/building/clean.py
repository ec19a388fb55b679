"""Remove leftovers of killed runs and, on request, everything that kiln keeps."""

from __future__ import annotations

from kiln.core.errors import EngineUnavailableError
from kiln.core.files import count_files, remove
from kiln.core.store import Store
from kiln.images import leftovers
from kiln.running.engine import Engine


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
        removed["unfinished images"] = leftovers.remove_unfinished(engine, foreign=True)
        if drop_images:
            removed["sealed images"] = leftovers.remove_sealed(engine)
    if empty_store:
        count = 0
        for folder in ("blobs", "results", "refs", "downloads", "logs", "kept"):
            path = store.root / folder
            if path.exists():
                count += count_files(path)
                remove(path)
        removed["stored files"] = count
    return removed
