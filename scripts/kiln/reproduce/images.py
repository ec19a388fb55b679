"""Provide the sealed images of recorded plans, by their identity.

A Dockerfile runs as root on the user's engine, so kiln does not build one just because a release
contains it. An image comes from a source that is verified by its identity, or is built from this
kiln's own definitions, which the user trusts anyway. Anything else needs explicit consent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kiln.core.errors import CannotReproduceError, ImageBuildError, KilnError
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError, read_file
from kiln.images import definition, dockerfile
from kiln.images.builder import Images
from kiln.images.lock import Locked, locked_image, read_lock
from kiln.project.folders import Project
from kiln.running.engine import Engine
from kiln.running.executor_protocol import OnEvent
from kiln.running.limits import Limits

#: Most bytes of any file that an image is built from: some ten times our largest lock.
_MAX_FILE = 1 << 20


@dataclass
class RecordedImages:
    """Provides recorded images in the engine.

    Args:
        archives: files that may be archives of them.
        checkout: the project in use; an image is built from its definitions if they give exactly
            the recorded image.
        strangers: whether to build from a release's own definitions, too.
        limits: for the containers of such a build.
    """

    engine: Callable[[], Engine]
    store: Store
    on_event: OnEvent
    archives: Sequence[Path] = ()
    checkout: Project | None = None
    strangers: bool = False
    limits: Limits = field(default_factory=Limits)

    def bring(self, docker: Path, name: str) -> Locked:
        """Provide the image that a release's lock names.

        Args:
            docker: the release's ``docker/``.

        Raises:
            CannotReproduceError: it is not available.
            ImageBuildError, ImageMismatchError: its build failed or gave another image.
        """
        locked = read_lock(docker).get(name)
        if locked is None or not locked.sound:
            raise CannotReproduceError(f"the release locks no image {name!r}.")
        theirs = self._images(docker)
        if theirs.bring(locked):
            return locked
        if self.checkout is not None and self._same_here(self.checkout, locked):
            self._note(
                f"image {name}: built from {self.checkout.described}'s definitions, which are the "
                "recorded ones"
            )
            return self._images(self.checkout.docker).ensure(name)
        if not self.strangers:
            here = "no other" if self.checkout is None else f"{self.checkout.described}'s"
            raise CannotReproduceError(
                f"it is not in the engine, no archive or registry has it, and {here} "
                "definitions are not those that it was built from."
            )
        self._build(theirs, locked)
        return locked

    def _images(self, docker: Path) -> Images:
        return Images(docker, self.engine, self.store, self.on_event, self.archives)

    def _same_here(self, checkout: Project, locked: Locked) -> bool:
        """Whether the checkout builds the same image from the same definitions as the release."""
        try:
            return locked_image(checkout.docker, locked.name) == locked
        except KilnError:
            return False

    def _build(self, theirs: Images, locked: Locked) -> None:
        """Build an image from a release's definitions, after checking them.

        Raises:
            ImageBuildError: they contain something that our definitions never contain.
        """
        self._note(
            f"image {locked.name}: built from the release's own definitions, as you asked: "
            "its install.py runs as root in a build container without a network"
        )
        item = definition.get(theirs.docker_dir, locked.name)
        _refuse_odd(item)
        locked_image(theirs.docker_dir, locked.name)  # they match the lock
        base = None
        if item.parent is not None:
            base = self.bring(theirs.docker_dir, item.parent).tag
        with self.store.lock(f"image-{locked.name}"):
            if not theirs.present(locked):
                built = theirs.build(locked.name, base=base, limits=self.limits)
                theirs.check(built, locked)

    def _note(self, text: str) -> None:
        self.on_event("note", message=text)


def _refuse_odd(item: definition.Definition) -> None:
    """Refuse a definition whose files look unlike ours.

    Raises:
        ImageBuildError: one is missing, too large, or the Dockerfile has unusual instructions.
    """
    for path in item.inputs():
        try:
            data = read_file(path, _MAX_FILE)
            if path.name == "Dockerfile":
                dockerfile.check(data, parent=item.parent is not None)
        except MalformedError as error:
            raise ImageBuildError(
                f"The release's {path.name} of the image {item.name!r} {error}.",
                "It is not built.",
            ) from None
        except OSError as error:
            raise ImageBuildError(
                f"The release lacks {path.name}, which the image {item.name!r} is built from "
                f"({error.strerror}).",
                "It is not built.",
            ) from None
