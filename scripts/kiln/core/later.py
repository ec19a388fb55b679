"""Do in the background what nobody needs to wait for, and finish it before the program ends."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Callable

#: Seconds that the end of the program waits for all of it together.
_PATIENCE = 10.0

_pending: set[threading.Thread] = set()


def later(action: Callable[[], None]) -> None:
    """Start ``action`` in a thread of its own; its exceptions are ignored.

    For removing things only: what is not done when the program ends, the next one has to find.
    """

    def run() -> None:
        with contextlib.suppress(Exception):
            action()
        _pending.discard(thread)

    thread = threading.Thread(target=run, name="later", daemon=True)
    _pending.add(thread)
    thread.start()


@atexit.register
def finish(patience: float = _PATIENCE) -> bool:
    """Wait until all of it is done, at most ``patience`` seconds; return whether it is."""
    until = time.monotonic() + patience
    for thread in list(_pending):
        thread.join(max(0.0, until - time.monotonic()))
    return not _pending
