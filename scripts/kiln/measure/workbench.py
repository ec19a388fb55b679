"""What a measurement shares with builds: sealed images, stage code, runners, locks and messages."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from kiln.building.build import Builder
from kiln.core.store import Store
from kiln.images.lock import locked_image
from kiln.project.closures import StageCode, read_stage_code
from kiln.recipes.recipe import ImageName
from kiln.running.executor import Runner
from kiln.running.executor_protocol import OnEvent


@dataclass
class Workbench:
    """Runs stages of one measurement.

    Args:
        builder: has project, store and engine, and receives events. Its ``dist`` is not used.
    """

    builder: Builder
    _notes: set[str] = field(default_factory=set)

    @property
    def store(self) -> Store:
        """The store for results."""
        return self.builder.store

    @functools.cached_property
    def code(self) -> StageCode:
        """The stage code."""
        return read_stage_code(self.builder.project.stages, self.store)

    def identity(self, image: ImageName) -> str:
        """Return the identity of a sealed image."""
        return locked_image(self.builder.project.docker, image).identity

    def runner(self, on_event: OnEvent, lent: Mapping[str, Path] | None = None) -> Runner:
        """Return a runner of plans; ``lent`` as in :class:`kiln.running.executor.Runner`."""
        builder = self.builder
        stages, shared = builder.project.stages, builder.shared
        return Runner(builder.engine, builder.store, stages, on_event, lent=lent, shared=shared)

    def tag(self, image: ImageName) -> str:
        """Return the tag of a sealed image; get or build it if the engine lacks it."""
        from kiln.images.builder import Images

        builder = self.builder
        images = Images(builder.project.docker, builder.engine, builder.store, builder.on_event)
        return images.ensure(image).tag

    def lock(self, name: str, model: str) -> AbstractContextManager[None]:
        """Hold a lock against other kilns; say once if one of them is at work on ``model``."""
        text = f"{model}: waiting for another kiln to finish it"

        def waiting() -> None:
            self.builder.check_stop()
            self.note(text, once=True)

        return self.store.lock(name, while_waiting=waiting)

    def note(self, text: str, *, once: bool = False) -> None:
        """Tell the user something."""
        if not once or text not in self._notes:
            self._notes.add(text)
            self.builder.on_event("note", message=text)
