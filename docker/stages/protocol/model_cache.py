"""A model that one stage built, for the next one in this process.

Building one takes longer than running it on a handful of images. Whoever takes it restores the
checkpoint and compares every variable with it, as in a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class Kept:
    """Holds one model, the last that was built."""

    def __init__(self) -> None:
        self._held: list[tuple[Hashable, Any]] = []

    def put(self, key: Hashable, model: Any) -> None:
        """Hold a model in the place of any other; it is not to be changed any more.

        Args:
            key: all that it was built from.
        """
        self._held[:] = [(key, model)]

    def get(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """The model of that key: the one that is held, or a new one, which is then held."""
        if not self._held or self._held[0][0] != key:
            self.put(key, build())
        return self._held[0][1]
