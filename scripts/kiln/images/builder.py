"""Building, sealing and finding images."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker.errors

from kiln.engine import OWNER_LABEL, Engine
from kiln.errors import ImageBuildError, ImageMismatchError
from kiln.files import disk_guard
from kiln.images import definition as definitions
from kiln.images.definition import SOURCE_DATE_EPOCH, Definition
from kiln.images.lock import Locked, locked_contents, locked_image, write_lock
from kiln.images.seal import Sealed, Sealer, compare, compare_configs, spool
from kiln.owners import tagged_name
from kiln.store import Store

#: Called with an event name and its fields.
OnEvent = Callable[..., None]


def _silent(event: str, **fields: Any) -> None:
    """The default listener."""


@dataclass(frozen=True)
class Built:
    """A freshly built and sealed image; ``seconds`` by phase (fetch, build, seal)."""

    name: str
    tag: str
    sealed: Sealed
    recipe: str
    seconds: dict[str, float] = field(default_factory=dict)


class Images:
    """The project's images on one engine.

    Args:
        docker_dir: the project's ``docker/`` folder.
        on_event: told about progress: ``download`` (name, done, total), ``image`` (image, phase,
            detail).
    """

    def __init__(
        self,
        docker_dir: Path,
        engine: Callable[[], Engine],
        store: Store,
        on_event: OnEvent = _silent,
    ) -> None:
        self.docker_dir = docker_dir
        self._find_engine = engine
        self.store = store
        self.on_event = on_event

    @property
    def engine(self) -> Engine:
        """The engine; looked for when it is first needed."""
        return self._find_engine()

    def present(self, locked: Locked) -> bool:
        """Whether the engine holds exactly this sealed image."""
        try:
            with self.engine.failures("looking for an image"):
                found = self.engine.client.api.inspect_image(locked.tag)
        except Exception as error:
            if isinstance(error.__cause__, docker.errors.ImageNotFound):
                return False
            raise
        # The id is the configuration's digest on one storage backend and a manifest's on the
        # other; the layer is the same on both, and the tag is only ever given to this identity.
        layers: list[str] = found["RootFS"]["Layers"]
        return layers == [locked.layer]

    def ensure(self, name: str) -> Locked:
        """The locked image, built now if the engine does not hold it.

        Raises:
            ImageMismatchError: what was built is not what is locked.
        """
        locked = locked_image(self.docker_dir, name)
        if self.present(locked):
            return locked
        with self.store.lock(f"image-{name}"):
            if not self.present(locked):
                built = self.build(name)
                self.check(built, locked)
        return locked

    def check(self, built: Built, locked: Locked) -> None:
        """Refuse a built image that differs from the lock, naming the files that differ."""
        if built.sealed.identity == locked.identity:
            return
        differences = [
            *compare_configs(locked.config.encode(), built.sealed.config),
            *compare(locked_contents(self.docker_dir, built.name), built.sealed.contents),
        ]
        shown = "\n".join(f"  {line}" for line in differences[:40])
        more = f"\n  ... and {len(differences) - 40} more" if len(differences) > 40 else ""
        self._discard(built.tag)  # nothing will ever use it
        raise ImageMismatchError(
            f"Image {built.name!r} is not the locked one: {len(differences)} differences.\n"
            f"{shown}{more}\n",
            "If the sources changed on purpose, record the new identity with `kiln images build "
            f"{built.name} --update-lock`; otherwise report the differences above.",
        )

    def build(self, name: str, *, update_lock: bool = False, jobs: int = 4) -> Built:
        """Build and seal ``name`` without any layer cache, parents first if they are missing.

        The sealed image is loaded into the engine under the tag of its identity; with
        ``update_lock`` that identity is written to ``images.lock``.
        """
        definition = definitions.get(self.docker_dir, name)
        base = None
        if definition.parent:
            if update_lock and not self._lock_is_current(definition.parent):
                self.build(definition.parent, update_lock=True)
            base = self.ensure(definition.parent).tag
        seconds: dict[str, float] = {}
        with _timed(seconds, "fetch"):
            self.on_event("image", image=name, phase="fetch", detail="packages")
            parts = definitions.fetch(definition, self.store, jobs=jobs, on_progress=self._progress)
        with self.store.scratch() as scratch, disk_guard(scratch):
            with _timed(seconds, "build"):
                definitions.make_context(definition, parts, self.store, scratch / "context")
                raw = self._build(definition, scratch / "context", base)
            with _timed(seconds, "seal"):
                self.on_event("image", image=name, phase="seal", detail="one canonical layer")
                try:
                    sealed = self._seal(name, raw, scratch)
                finally:
                    self._discard(raw)
        recipe = definitions.recipe_digest(self.docker_dir, name)
        if update_lock:
            tag = write_lock(self.docker_dir, name, sealed, recipe).tag
        else:
            tag = Locked.of(name, sealed, recipe).tag
        self.on_event(
            "image", image=name, phase="done", detail=sealed.identity, seconds=dict(seconds)
        )
        return Built(name, tag, sealed, recipe, seconds)

    def _lock_is_current(self, name: str) -> bool:
        try:
            locked_image(self.docker_dir, name)
        except ImageMismatchError:
            return False
        return True

    def _progress(self, name: str, done: int, total: int | None) -> None:
        self.on_event("download", name=name, done=done, total=total)

    def _build(self, definition: Definition, context: Path, base: str | None) -> str:
        self.on_event("image", image=definition.name, phase="build", detail="starting")
        arguments = {"OWNER": tagged_name(), **({"BASE": base} if base else {})}
        log: list[str] = []
        image_id = ""
        with self.engine.failures(f"building image {definition.name!r}"):
            stream = self.engine.client.api.build(
                path=str(context),
                buildargs=arguments,
                network_mode="none",
                nocache=True,
                rm=True,
                forcerm=True,
                decode=True,
            )
            for message in stream:
                text = str(message.get("stream", "")).strip()
                if text:
                    log.append(text)
                    if text.startswith("Step "):
                        self.on_event(
                            "image", image=definition.name, phase="build", detail=text[:100]
                        )
                if "error" in message:
                    tail = "\n".join(f"  {line}" for line in log[-15:])
                    raise ImageBuildError(
                        f"Image {definition.name!r} could not be built: "
                        f"{str(message['error']).strip()}\n{tail}\n",
                        "`kiln doctor` checks the engine and the disk; the lines above are the "
                        "end of the build log.",
                    )
                image_id = message.get("aux", {}).get("ID", image_id)
        if not image_id:
            raise ImageBuildError(
                f"The engine ended the build of image {definition.name!r} without an image.",
                "Look at the engine's own log and run the command again.",
            )
        return image_id

    def _seal(self, name: str, raw: str, scratch: Path) -> Sealed:
        api = self.engine.client.api
        with self.engine.failures("sealing an image"):
            container = api.create_container(
                raw, command=["/bin/true"], labels={OWNER_LABEL: tagged_name()}
            )["Id"]
            with tempfile.TemporaryFile(dir=scratch) as exported:
                try:
                    spool(api.export(container, chunk_size=1 << 21), exported)
                finally:
                    with contextlib.suppress(docker.errors.DockerException):
                        api.remove_container(container, force=True)
                settings = api.inspect_image(raw)["Config"]
                sealer = Sealer(
                    exported, settings, epoch=SOURCE_DATE_EPOCH, repository=f"tflite-kiln/{name}"
                )
                for message in api.load_image(sealer.archive()):
                    if "error" in message:
                        raise ImageBuildError(
                            f"The engine refused the sealed image {name!r}: {message['error']}.",
                            "Look at the engine's own log and run the command again.",
                        )
        if sealer.sealed is None:
            raise ImageBuildError(
                f"The engine took only a part of the sealed image {name!r}.",
                "Look at the engine's own log and run the command again.",
            )
        return sealer.sealed

    def _discard(self, image_id: str) -> None:
        # The unsealed image and its layers: only the sealed one is used.
        with contextlib.suppress(docker.errors.DockerException):
            self.engine.client.api.remove_image(image_id, force=True)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[phase] = round(time.monotonic() - start, 1)
