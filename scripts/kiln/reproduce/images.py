"""The sealed images that plans were recorded in, brought by their identity.

A Dockerfile runs as root, on the engine of whoever builds it. So none is built because a release
says so: an image comes from where its identity vouches for it, or out of this kiln's own
definitions, which the user has anyway. Anything else takes a person's explicit word.
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
from kiln.running.limits import Limits
from kiln.running.local import OnEvent

#: Bytes of any file that an image is built from: some ten times the largest lock of ours.
_MAX_FILE = 1 << 20


@dataclass
class RecordedImages:
    """Brings recorded images into the engine.

    Args:
        archives: files that may be archives of them.
        checkout: the project in use; its definitions are built from where they make just the
            recorded image.
        strangers: whether a release's own definitions may be built from, too.
        limits: of such a build's containers.
    """

    engine: Callable[[], Engine]
    store: Store
    on_event: OnEvent
    archives: Sequence[Path] = ()
    checkout: Project | None = None
    strangers: bool = False
    limits: Limits = field(default_factory=Limits)

    def bring(self, docker: Path, name: str) -> Locked:
        """The image that a release's lock names, in the engine.

        Args:
            docker: the release's ``docker/``.

        Raises:
            CannotReproduceError: it is not to be had.
            ImageBuildError, ImageMismatchError: a build of it failed, or came out otherwise.
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
        """Whether the checkout builds the image from what the release did, and gets the same."""
        try:
            return locked_image(checkout.docker, locked.name) == locked
        except KilnError:
            return False

    def _build(self, theirs: Images, locked: Locked) -> None:
        """Build an image from a release's definitions, once they were looked at.

        Raises:
            ImageBuildError: there is something in them that none of ours has.
        """
        self._note(
            f"image {locked.name}: built from the release's own definitions, as you asked for: "
            "its install.py runs as root in a build container without a network"
        )
        item = definition.get(theirs.docker_dir, locked.name)
        _refuse_odd(item)
        locked_image(theirs.docker_dir, locked.name)  # they are what was locked
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
    """Refuse a definition whose files are not of our kind.

    Raises:
        ImageBuildError: one is missing, too large, or the Dockerfile does what none of ours does.
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
