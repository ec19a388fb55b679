"""Build, seal and find images.

An image is built in one container (:mod:`kiln.images.container`). Where that is not possible, the
engine's own builder builds it, and what it made is sealed: the result is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiln.core.errors import EngineFailedError, ImageBuildError, ImageMismatchError
from kiln.core.files import disk_guard, writing
from kiln.core.later import later
from kiln.core.lease import tagged_name
from kiln.core.store import Store
from kiln.core.untrusted import MalformedError, read_file
from kiln.images import archived, dockerfile, leftovers, registry, transfer
from kiln.images import definition as definitions
from kiln.images.container import BuildContainer, Layer, UnsuitableEngineError, lay_out
from kiln.images.definition import SOURCE_DATE_EPOCH, Definition
from kiln.images.lock import Locked, locked_contents, locked_image, read_lock, write_lock
from kiln.images.seal import (
    Sealed,
    Sealer,
    archive_head,
    archive_tail,
    compare,
    compare_configs,
    sealed_as,
)
from kiln.running.engine import Engine
from kiln.running.limits import Limits

#: Called with an event name and its fields.
OnEvent = Callable[..., None]


def _silent(event: str, **fields: Any) -> None:
    """Ignore progress; the default listener."""


@dataclass(frozen=True)
class Built:
    """A freshly built and sealed image; ``seconds`` by phase (fetch, build, seal).

    ``new``: whether the engine did not hold it before.
    """

    name: str
    tag: str
    sealed: Sealed
    recipe: str
    seconds: dict[str, float] = field(default_factory=dict)
    new: bool = True


@dataclass(frozen=True)
class _Order:
    """What to build: ``base`` is the tag of the parent image, if it has one."""

    definition: Definition
    base: str | None
    limits: Limits | None
    keep: bool

    def until(self) -> float | None:
        """Return when the time for it is up."""
        return None if self.limits is None else time.monotonic() + self.limits.timeout


class Images:
    """The project's images on one engine.

    Args:
        docker_dir: the project's ``docker/`` folder.
        on_event: receives progress: ``download`` (name, done, total), ``image`` (image, phase,
            detail).
        archives: files that may be archives of locked images.
        may_build: whether :meth:`ensure` builds an image that is not available otherwise. Not
            for untrusted definitions.
    """

    def __init__(
        self,
        docker_dir: Path,
        engine: Callable[[], Engine],
        store: Store,
        on_event: OnEvent = _silent,
        archives: Sequence[Path] = (),
        *,
        may_build: bool = True,
    ) -> None:
        self.docker_dir = docker_dir
        self._find_engine = engine
        self.store = store
        self.on_event = on_event
        self.archives = archives
        self.may_build = may_build

    @classmethod
    def on_any_engine(
        cls,
        docker_dir: Path,
        store: Store,
        on_event: OnEvent = _silent,
        *,
        may_build: bool = True,
    ) -> Images:
        """Use the first engine that answers, looked for (and swept) when first needed."""
        found: list[Engine] = []

        def engine() -> Engine:
            if not found:
                found.append(Engine.find())
                found[0].sweep()
            return found[0]

        return cls(docker_dir, engine, store, on_event, may_build=may_build)

    @property
    def engine(self) -> Engine:
        """The engine; looked for when it is first needed."""
        return self._find_engine()

    def present(self, locked: Locked) -> bool:
        """Whether the engine holds exactly this sealed image."""
        return transfer.present(self.engine, locked)

    def state(self, locked: Locked) -> str:
        """``present`` in the engine, ``archived`` in the store, or ``not built``."""
        if self.present(locked):
            return "present"
        return "not built" if archived.stored(self.store, locked) is None else "archived"

    def ensure(self, name: str) -> Locked:
        """Make sure that the engine holds the locked image: see :meth:`bring`.

        If it is not available, it is built and checked against the lock.

        Raises:
            ImageMismatchError: the build differs from the lock; or it may not be built here.
        """
        locked = locked_image(self.docker_dir, name)
        if not self.bring(locked):
            if not self.may_build:
                raise ImageMismatchError(
                    f"The engine does not hold the image {name!r}, and its definitions are not "
                    "this kiln's own, so it is not built from them.",
                    "Load its archive with `kiln images load`, or set KILN_IMAGE_REGISTRY.",
                )
            with self.store.lock(f"image-{name}"):
                if not self.present(locked):
                    self.check(self.build(name), locked)
        return locked

    def bring(self, locked: Locked) -> bool:
        """Provide a locked image to the engine without a build; return whether it has it now.

        From one of the ``archives``; from an archive in the store; from the registry that
        ``KILN_IMAGE_REGISTRY`` names. Each is checked against the lock.
        """
        if self.present(locked):
            return True
        with self.store.lock(f"image-{locked.name}"):
            return (
                self.present(locked)
                or self._from_files(locked)
                or self._from_store(locked)
                or self._pulled(locked)
            )

    def _from_files(self, locked: Locked) -> bool:
        # A file's size tells which image it may be; all its bytes decide.
        size = archived.size_of(locked)
        return any(
            self._taken(locked, path, str(path))
            for path in self.archives
            if path.stat().st_size == size
        )

    def _from_store(self, locked: Locked) -> bool:
        digest = archived.stored(self.store, locked)
        if digest is None:
            return False
        return self._taken(locked, self.store.path(digest), "The store's archive")

    def _taken(self, locked: Locked, path: Path, called: str) -> bool:
        """Load a file that is the locked image's archive; return whether it worked."""
        self.on_event("image", image=locked.name, phase="load", detail=called)
        try:
            self._load(locked, archived.reading(path), called)
        except ImageMismatchError as error:
            self.on_event("note", message=f"{error.message} It is not used.")
            return False
        return True

    def _pulled(self, locked: Locked) -> bool:
        where = registry.registry()
        if where is None:
            return False
        self.on_event("image", image=locked.name, phase="pull", detail=where)
        try:
            with self.store.scratch() as scratch, disk_guard(scratch):
                registry.pull(self.engine, locked, where, scratch)
        except (EngineFailedError, ImageMismatchError) as error:
            self.on_event("note", message=f"{error.message} This registry is not used.")
            return False
        self._told(locked)
        return True

    def _load(self, locked: Locked, chunks: archived.Reader, called: str) -> None:
        """Load the locked image's archive into the engine.

        Raises:
            ImageMismatchError: it is not; nothing was loaded.
        """
        archived.check(chunks(), locked, called)
        transfer.load(self.engine, locked.name, chunks())
        if not self.present(locked):
            raise ImageMismatchError(
                f"The engine loaded {called} of image {locked.name!r} as another image.",
                "Check the engine's log, then run the command again.",
            )
        self._told(locked)

    def _told(self, locked: Locked) -> None:
        self.on_event("image", image=locked.name, phase="done", detail=locked.identity)

    @contextlib.contextmanager
    def archive(self, locked: Locked) -> Iterator[archived.Reader]:
        """Return the archive of a locked image, from the store or from the engine.

        A reader that reaches the end without an exception has read the locked image.

        Raises:
            ImageMismatchError: the engine does not hold the image, or holds another one.
        """
        digest = archived.stored(self.store, locked)
        if digest is not None:
            path = self.store.path(digest)
            archived.check(archived.reading(path)(), locked, "The store's archive")
            yield archived.reading(path)
            return
        if not self.present(locked):
            raise ImageMismatchError(
                f"The engine does not hold the sealed image {locked.name!r}.",
                f"`kiln images build {locked.name}` provides it.",
            )
        with (
            self.store.scratch() as scratch,
            disk_guard(scratch),
            archived.resealed(self.engine, locked.tag, locked, scratch) as chunks,
        ):
            yield chunks

    def save(self, name: str, target: Path) -> str:
        """Write the archive of a locked image to a file; return the file's SHA-256.

        Raises:
            ImageMismatchError: see :meth:`archive`.
        """
        locked = locked_image(self.docker_dir, name)
        self.on_event("image", image=name, phase="save", detail=str(target))
        digest = hashlib.sha256()
        with writing(target) as out, self.archive(locked) as chunks:
            for chunk in chunks():
                digest.update(chunk)
                out.write(chunk)
        return digest.hexdigest()

    def load(self, path: Path) -> Locked:
        """Load the archive of any locked image into the engine; return which image it was.

        Raises:
            ImageMismatchError: it is none of them, or damaged; nothing was loaded.
        """
        size = path.stat().st_size
        entries = read_lock(self.docker_dir).values()
        fitting = [entry for entry in entries if archived.size_of(entry) == size]
        if not fitting:
            raise ImageMismatchError(
                f"{path} is not the archive of an image that docker/images.lock names: none of "
                f"them has {size:,} bytes.",
                "Copy it again from its source, or write one with `kiln images save`.",
            )
        for locked in fitting[:-1]:
            with contextlib.suppress(ImageMismatchError):
                archived.check(archived.reading(path)(), locked, str(path))
                fitting = [locked]
                break
        self.on_event("image", image=fitting[-1].name, phase="load", detail=str(path))
        self._load(fitting[-1], archived.reading(path), str(path))
        return fitting[-1]

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
        if built.new:
            self._discard(built.tag)  # it is of no use
        raise ImageMismatchError(
            f"Image {built.name!r} is not the locked one: {len(differences)} differences.\n"
            f"{shown}{more}\n",
            "If the sources changed on purpose, record the new identity with `kiln images build "
            f"{built.name} --update-lock`; otherwise report the differences above.",
        )

    def build(
        self,
        name: str,
        *,
        update_lock: bool = False,
        jobs: int = 4,
        base: str | None = None,
        limits: Limits | None = None,
        keep: bool = True,
    ) -> Built:
        """Build and seal ``name`` without any layer cache, parents first if they are missing.

        The sealed image is loaded into the engine under the tag of its identity; with
        ``update_lock`` that identity is written to ``images.lock``.

        Args:
            keep: whether to load it; otherwise only its identity and contents are found.
            base: the tag of its parent image, if it is available.
            limits: memory of each build container, and time for all of them; none by default.
        """
        definition = definitions.get(self.docker_dir, name)
        if definition.parent and base is None:
            if update_lock and not self._lock_is_current(definition.parent):
                self.build(definition.parent, update_lock=True)
            base = self.ensure(definition.parent).tag
        seconds: dict[str, float] = {}
        with _timed(seconds, "fetch"):
            self.on_event("image", image=name, phase="fetch", detail="packages")
            parts = definitions.fetch(definition, self.store, jobs=jobs, on_progress=self._progress)
        before = transfer.tags(self.engine, f"tflite-kiln/{name}")
        order = _Order(definition, base, limits, keep)
        with self.store.scratch() as scratch, disk_guard(scratch):
            self.on_event("image", image=name, phase="build", detail="starting")
            with _timed(seconds, "build"):
                definitions.make_context(definition, parts, self.store, scratch / "context")
            leftovers.remove_unfinished(self.engine)
            sealed = self._direct(order, scratch, seconds)
            if sealed is None:
                sealed = self._by_the_engine(order, scratch, seconds)
        recipe = definitions.recipe_digest(self.docker_dir, name)
        if update_lock:
            tag = write_lock(self.docker_dir, name, sealed, recipe).tag
        else:
            tag = Locked.of(name, sealed, recipe).tag
        self.on_event(
            "image", image=name, phase="done", detail=sealed.identity, seconds=dict(seconds)
        )
        return Built(name, tag, sealed, recipe, seconds, new=tag not in before)

    def _lock_is_current(self, name: str) -> bool:
        try:
            locked_image(self.docker_dir, name)
        except ImageMismatchError:
            return False
        return True

    def _progress(self, name: str, done: int, total: int | None) -> None:
        self.on_event("download", name=name, done=done, total=total)

    def _direct(self, order: _Order, scratch: Path, seconds: dict[str, float]) -> Sealed | None:
        """Build an image in one container; None where that is not possible."""
        definition, name = order.definition, order.definition.name
        try:
            text = read_file(scratch / "context" / "Dockerfile", dockerfile.MAX_BYTES)
        except MalformedError:
            return None
        recipe = dockerfile.read(text, parent=definition.parent is not None)
        if recipe is None:
            return None
        limits, until = order.limits, order.until()
        with contextlib.ExitStack() as stack, _in_time(name, until):
            started = time.monotonic()
            lay_out(recipe, scratch / "context", scratch / "inputs")
            (scratch / "pipes").mkdir()
            settings, image = self._origin(order, scratch / "context", stack)
            try:
                layer = stack.enter_context(
                    BuildContainer(
                        self.engine,
                        name,
                        recipe,
                        image=image,
                        folder=scratch / "inputs",
                        pipes=scratch / "pipes",
                        limits=limits,
                        until=until,
                        on_step=lambda step: self._stepped(name, step),
                    )
                )
            except UnsuitableEngineError:
                return None
            seconds["build"] += round(time.monotonic() - started, 1)
            with _timed(seconds, "seal"):
                self.on_event("image", image=name, phase="seal", detail="one canonical layer")
                changed = recipe.settings(settings)
                return self._kept(layer, name, changed) if order.keep else _read(layer, changed)

    def _origin(
        self, order: _Order, context: Path, stack: contextlib.ExitStack
    ) -> tuple[dict[str, Any], str]:
        """Return the settings and the name of the image that a build starts from."""
        if order.base is not None:
            found = transfer.inspect(self.engine, order.base)
            if found is None:
                raise ImageBuildError(
                    f"The engine does not hold the image {order.base!r} any more.",
                    "Run the command again.",
                )
            return found["Config"], order.base
        raw = transfer.import_layer(self.engine, archived.reading(context / "rootfs.tar")())
        stack.callback(later, lambda: self._discard(raw))
        return {}, raw

    def _kept(self, layer: Layer, name: str, settings: dict[str, Any]) -> Sealed:
        """Load a layer as the sealed image."""
        repository = f"tflite-kiln/{name}"
        if not transfer.reuses_layers(self.engine):
            found: list[Sealed] = []

            def archive() -> Iterator[bytes]:
                yield archive_head(layer.size)
                yield from layer.chunks()
                found.append(_sealed(layer, settings))
                yield archive_tail(found[0].config, f"{repository}:{found[0].short}")

            transfer.load(self.engine, name, archive())
            (sealed,) = found
            return sealed
        raw = transfer.import_layer(self.engine, layer.chunks())
        try:
            sealed = _sealed(layer, settings)
            tag = f"{repository}:{sealed.short}"
            transfer.load(self.engine, name, [archive_tail(sealed.config, tag)])
        finally:
            self._discard(raw)
        return sealed

    def _stepped(self, name: str, text: str) -> None:
        self.on_event("image", image=name, phase="build", detail=text[:100])

    def _by_the_engine(self, order: _Order, scratch: Path, seconds: dict[str, float]) -> Sealed:
        """Build an image with the engine's own builder, and seal it."""
        definition, name = order.definition, order.definition.name
        with _timed(seconds, "build"):
            raw = self._build(definition, scratch / "context", order.base, order.limits)
        with _timed(seconds, "seal"):
            self.on_event("image", image=name, phase="seal", detail="one canonical layer")
            try:
                return self._seal(name, raw, scratch, keep=order.keep)
            finally:
                later(lambda: self._discard(raw))

    def _build(
        self, definition: Definition, context: Path, base: str | None, limits: Limits | None
    ) -> str:
        arguments = {"OWNER": tagged_name(), **({"BASE": base} if base else {})}
        log: list[str] = []
        image_id = ""
        until = None if limits is None else time.monotonic() + limits.timeout
        with (
            _in_time(definition.name, until),
            self.engine.failures(f"building image {definition.name!r}"),
        ):
            stream = self.engine.client.api.build(
                path=str(context),
                buildargs=arguments,
                network_mode="none",
                nocache=True,
                rm=True,
                forcerm=True,
                # Limits silence; without it kiln would wait forever for a silent build.
                timeout=None if limits is None else int(limits.timeout) + 1,
                container_limits=(
                    None if limits is None else {"memory": limits.memory, "memswap": limits.memory}
                ),
                decode=True,
            )
            for message in stream:
                if until is not None and time.monotonic() > until:
                    raise EngineFailedError("Too slow.")  # _in_time makes the message
                text = str(message.get("stream", "")).strip()
                if text:
                    log.append(text)
                    if text.startswith(("Step ", "STEP ")):  # Docker's word, and Podman's
                        self._stepped(definition.name, text)
                if "error" in message:
                    leftovers.remove_failed(self.engine, arguments["OWNER"])
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
                "Check the engine's log, then run the command again.",
            )
        return image_id

    def _seal(self, name: str, raw: str, scratch: Path, *, keep: bool) -> Sealed:
        with transfer.exported(self.engine, raw, scratch) as (exported, settings):
            sealer = Sealer(
                exported, settings, epoch=SOURCE_DATE_EPOCH, repository=f"tflite-kiln/{name}"
            )
            if keep:
                transfer.load(self.engine, name, sealer.archive())
            else:
                for _ in sealer.archive():
                    pass
        if sealer.sealed is None:
            raise ImageBuildError(
                f"The engine loaded only a part of the sealed image {name!r}.",
                "Check the engine's log, then run the command again.",
            )
        return sealer.sealed

    def _discard(self, image_id: str) -> None:
        # Remove the unsealed image and its layers: only the sealed one is used.
        transfer.discard(self.engine, image_id)


@contextlib.contextmanager
def _in_time(name: str, until: float | None) -> Iterator[None]:
    """Report any failure of a build after its time limit as exceeding the limit.

    The engine stops the build itself once its client is gone.
    """
    try:
        yield
    except EngineFailedError as error:
        if until is None or time.monotonic() < until:
            raise
        raise ImageBuildError(
            f"Building the image {name!r} takes longer than its time limit.",
            "Give it more time with --timeout.",
        ) from error


@contextlib.contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[phase] = round(seconds.get(phase, 0.0) + time.monotonic() - start, 1)


def _sealed(layer: Layer, settings: dict[str, Any]) -> Sealed:
    return sealed_as(settings, layer.digest, layer.size, layer.contents, epoch=SOURCE_DATE_EPOCH)


def _read(layer: Layer, settings: dict[str, Any]) -> Sealed:
    """Read a layer to its end, and nothing else."""
    for _ in layer.chunks():
        pass
    return _sealed(layer, settings)
