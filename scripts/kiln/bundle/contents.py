"""Gather the contents of a bundle: fetch what the store lacks, and list everything."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiln.bundle.index import BlobEntry, FirstUse, ImageEntry, Index, PackageChoice, Role, Use
from kiln.bundle.needs import Needs
from kiln.core.archive import unpack
from kiln.core.deterministic_tar import TarEntry, deterministic_tar
from kiln.core.errors import ImageMismatchError, SourceUnavailableError
from kiln.core.store import Store
from kiln.core.version import __version__
from kiln.images import archived, definition
from kiln.images.archived import Reader
from kiln.images.definition import SOURCE_DATE_EPOCH, Definition
from kiln.images.lock import Locked, locked_image, read_lock
from kiln.project.folders import Project
from kiln.recipes.recipe import Recipe
from kiln.signing.statement_names import SOURCE_FILE
from kiln.sources import pypi
from kiln.sources.fetcher import Options
from kiln.sources.kinds import fetcher_of
from kiln.sources.model import acquire, with_images_to_check
from kiln.sources.packed import Packed, archive_files
from kiln.statements.source_archive import source_archive

if TYPE_CHECKING:
    from kiln.images.builder import Images

#: Called with an event name and its fields.
OnEvent = Callable[..., None]


@dataclass
class Contents:
    """The contents of a bundle while they are gathered.

    Args:
        stack: files opened for reading stay open until it is closed.
    """

    project: Project
    store: Store
    on_event: OnEvent
    stack: contextlib.ExitStack
    readers: dict[str, Reader] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict)
    _uses: dict[str, set[tuple[Role, str]]] = field(default_factory=dict)
    _refs: dict[tuple[str, ...], PackageChoice | FirstUse] = field(default_factory=dict)
    _images: dict[str, ImageEntry] = field(default_factory=dict)

    def index(self) -> Index:
        """Return the index of all gathered contents."""
        blobs = [
            BlobEntry(
                sha256=digest,
                size=self._sizes[digest],
                uses=[Use(role=role, name=name) for role, name in sorted(uses)],
            )
            for digest, uses in sorted(self._uses.items())
        ]
        return Index(
            kiln=__version__,
            blobs=blobs,
            refs=[ref for _, ref in sorted(self._refs.items())],
            images=sorted(self._images.values(), key=lambda image: (image.name, image.identity)),
        )

    def _add(self, role: Role, name: str, digest: str) -> None:
        path = self.store.path(digest)
        self._sizes[digest] = path.stat().st_size
        self.readers[digest] = archived.reading(path)
        self._uses.setdefault(digest, set()).add((role, name))

    # -- models ---------------------------------------------------------------------------------

    def add_model(self, recipe: Recipe) -> None:
        """Add everything that building a model starts from.

        Raises:
            KilnError: its source is not available (:func:`kiln.sources.model.acquire`).
        """
        options = Options(
            on_progress=self._progress,
            on_note=lambda text: self.on_event("note", message=text),
        )
        acquired = acquire(recipe, self.store, options)
        acquired = with_images_to_check(acquired, self.project.sample_images, self.store)
        contents, name = acquired.contents, recipe.name
        source = source_archive(self.project, recipe)
        self._add("recipe", f"{name}/{SOURCE_FILE}", self.store.add_bytes(source))
        packed = fetcher_of(recipe, self.store).packed
        if packed is not None:
            self._add_archive(packed, acquired.record)
        else:
            self._add_all("input", name, {**contents.checkpoint, **contents.saved_model})
            self._add_all("input", name, contents.inputs)
        self._add_all("input", f"{name}/images", {**contents.images, **contents.check_images})
        for what, digest in (("labels", contents.label_map), ("pipeline.config", contents.config)):
            if digest is not None:
                self._add("input", f"{name}/{what}", digest)

    def _add_all(self, role: Role, prefix: str, files: Any) -> None:
        for name, digest in files.items():
            self._add(role, f"{prefix}/{name}", digest)

    def _add_archive(self, packed: Packed, record: dict[str, Any]) -> None:
        digest = record.get("sha256")
        if digest is None:  # a hub module from a cache: there is no archive
            if packed.sha256 is None:
                digest = self._pack(record["files"])
            else:
                _, record = archive_files(packed, self.store, Options(on_progress=self._progress))
                digest = record["sha256"]
        self._add("source", packed.model, str(digest))
        if packed.sha256 is None:
            ref = FirstUse(kind="archive", model=packed.model, url=packed.url, sha256=str(digest))
            self._refs["archive", packed.model] = ref

    def _pack(self, files: dict[str, str]) -> str:
        out = io.BytesIO()
        entries = [TarEntry(name, self.store.path(digest)) for name, digest in files.items()]
        deterministic_tar(out, entries, mtime=SOURCE_DATE_EPOCH)
        return self.store.add_bytes(out.getvalue())

    # -- images ---------------------------------------------------------------------------------

    def add_packages(self, docker_dir: Path, names: Iterable[str]) -> None:
        """Add the packages that images and their parents are built from.

        Raises:
            SourceUnavailableError, DigestMismatchError: one is not available.
        """
        for item in with_parents(docker_dir, names):
            self.on_event("image", image=item.name, phase="fetch", detail="packages")
            parts = definition.fetch(item, self.store, on_progress=self._progress)
            self._add_all("debian", item.name, parts.get("debian", {}))
            for lock in (*item.wheels, *([item.tools] if item.tools else [])):
                for pin in pypi.read_lock(lock):
                    self._add_package(item, pin)

    def _add_package(self, image: Definition, pin: pypi.Pin) -> None:
        machine = image.system.wheels
        chosen = pypi.recall(self.store, pin, **machine)
        assert chosen is not None  # just fetched
        self._add("python", f"{image.name}/{chosen.filename}", chosen.sha256)
        hashes = sorted(pin.hashes)
        key = ("pypi", pin.name, pin.version, machine["python"], *hashes)
        self._refs[key] = PackageChoice(
            kind="pypi",
            name=pin.name,
            version=pin.version,
            hashes=hashes,
            python=machine["python"],
            platforms=list(machine["platforms"]),
            filename=chosen.filename,
            sha256=chosen.sha256,
        )

    def add_image(self, images: Images, locked: Locked) -> None:
        """Add a sealed image's archive: from the store, or of what the engine holds or builds.

        Raises:
            ImageMismatchError: the engine has another image.
        """
        if locked.identity in self._images:
            return
        if archived.stored(self.store, locked) is None:
            images.ensure(locked.name)
        self.on_event("image", image=locked.name, phase="save", detail="reading it")
        chunks = self.stack.enter_context(images.archive(locked))
        digest = hashlib.sha256()
        for chunk in chunks():
            digest.update(chunk)
        sha256 = digest.hexdigest()
        self.readers[sha256] = chunks
        self._sizes[sha256] = archived.size_of(locked)
        self._uses.setdefault(sha256, set()).add(("image", locked.name))
        self._images[locked.identity] = ImageEntry(
            name=locked.name,
            identity=locked.identity,
            layer=locked.layer,
            size=locked.size,
            config=locked.config,
            sha256=sha256,
        )

    # -- a release ------------------------------------------------------------------------------

    def add_needs(self, needs: Needs) -> None:
        """Add what the recorded stages of a released model read, and the code.

        Raises:
            SourceUnavailableError: the store lacks a content.
        """
        missing = [name for digest, name in needs.contents.items() if not self.store.has(digest)]
        if missing:
            raise SourceUnavailableError(
                f"{len(missing)} contents that {needs.model!r} of the release was made from are "
                f"not here: {', '.join(sorted(missing)[:5])}.",
                "Make the bundle where the release was built, or build the model again first.",
            )
        for digest, name in needs.contents.items():
            self._add("input", f"{needs.model}/{name}", digest)
        if needs.source_archive is not None:
            digest = self.store.add_file(needs.source_archive)
            self._add("recipe", f"{needs.model}/{SOURCE_FILE}", digest)

    def docker_of(self, needs: Needs) -> Path:
        """Return the image definitions that a released model was made with.

        Raises:
            ImageMismatchError: they are neither the project's nor in the release.
        """
        if needs.images <= {item.identity for item in read_lock(self.project.docker).values()}:
            return self.project.docker
        if needs.source_archive is not None:
            scratch = self.stack.enter_context(self.store.scratch()) / "source"
            unpack(needs.source_archive, scratch)
            for folder in sorted(scratch.glob("**/docker")):
                if needs.images <= {item.identity for item in read_lock(folder).values()}:
                    return folder
        raise ImageMismatchError(
            f"{needs.model!r} of the release was made in other images than docker/images.lock "
            "names, and there is no source archive with theirs.",
            "Check out the version that made the release.",
        )

    def _progress(self, name: str, done: int, total: int | None) -> None:
        self.on_event("download", name=name, done=done, total=total)


def with_parents(docker_dir: Path, names: Iterable[str]) -> list[Definition]:
    """Return the definitions of images and of all their parents, parents first."""
    known = definition.load(docker_dir)
    wanted: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        item = definition.get(docker_dir, name)
        wanted.add(name)
        if item.parent is not None and item.parent not in wanted:
            todo.append(item.parent)
    return [item for name, item in known.items() if name in wanted]


def names_of(docker_dir: Path, identities: Iterable[str]) -> list[str]:
    """Return the names of locked images, by identity."""
    wanted = set(identities)
    return [name for name, item in read_lock(docker_dir).items() if item.identity in wanted]


def locked_images(docker_dir: Path, names: Sequence[str]) -> list[Locked]:
    """Return the lock entries of images and of all their parents."""
    return [locked_image(docker_dir, item.name) for item in with_parents(docker_dir, names)]
