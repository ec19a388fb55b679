"""Cache the model that one stage built for the next stage of this process.

Building one takes longer than running it on a few images. A stage that takes the cached model still
restores the checkpoint and compares every variable with it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class Kept:
    """Holds one model: the last that was built."""

    def __init__(self) -> None:
        self._held: list[tuple[Hashable, Any]] = []

    def put(self, key: Hashable, model: Any) -> None:
        """Cache a model in place of any other; it must not be changed afterwards.

        Args:
            key: everything that it was built from.
        """
        self._held[:] = [(key, model)]

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """Return the cached model of that key, or build and cache a new one."""
        if not self._held or self._held[0][0] != key:
            self.put(key, build())
        return self._held[0][1]
