"""Record new identities of images: build twice, compare, write the lock, describe the changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kiln.core.errors import ImageMismatchError
from kiln.images import definition as definitions
from kiln.images.builder import Built, Images
from kiln.images.changes import describe
from kiln.images.lock import Locked, locked_contents, read_lock, write_lock
from kiln.images.seal import compare, compare_configs

#: How many differing paths a message shows.
_SHOWN = 40


@dataclass(frozen=True)
class Relocked:
    """One image that was recorded in ``images.lock``.

    Attributes:
        before: the identity it had, or ``""``.
        changes: descriptions of the changes; empty for a new image or an unchanged one.
        stale: images that start from this one, were locked for another, and are not relocked.
    """

    locked: Locked
    before: str
    changes: tuple[str, ...]
    stale: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the identity is unchanged."""
        return self.before == self.locked.identity


def relock(images: Images, names: Sequence[str], *, once: bool = False) -> Iterator[Relocked]:
    """Build images and record their identities, parents first.

    Each is reported as soon as it is recorded.

    Args:
        names: which ones; their parents are included where their record is out of date.
        once: build once; otherwise a second build must give the same image.

    Raises:
        ImageMismatchError: two builds in a row differ; nothing was recorded for this image.
        ImageBuildError, SourceUnavailableError, DigestMismatchError: an image cannot be built.
    """
    order = _in_order(images, names)
    for name in order:
        known = read_lock(images.docker_dir).get(name)
        contents = locked_contents(images.docker_dir, name)
        built = images.build(name)
        if not once:
            _same(built, images.build(name, keep=False))
        locked = write_lock(images.docker_dir, name, built.sealed, built.recipe)
        changes = []
        if known is not None:  # for a new image, everything would be a change
            changes = [*_changes(known, locked), *describe(contents, built.sealed.contents)]
        stale = [
            child.name
            for child in definitions.load(images.docker_dir).values()
            if child.parent == name and child.name not in order
            if not _is_current(images, child.name)
        ]
        before = known.identity if known else ""
        yield Relocked(locked, before, tuple(changes), tuple(stale))


def _in_order(images: Images, names: Sequence[str]) -> list[str]:
    wanted = set(names)
    known = definitions.load(images.docker_dir)
    for name in reversed(known):  # children before parents
        parent = known[name].parent
        if name in wanted and parent and not _is_current(images, parent):
            wanted.add(parent)
    return [name for name in known if name in wanted]


def _is_current(images: Images, name: str) -> bool:
    entry = read_lock(images.docker_dir).get(name)
    return entry is not None and entry.recipe == definitions.recipe_digest(images.docker_dir, name)


def _same(first: Built, second: Built) -> None:
    if first.sealed.identity == second.sealed.identity:
        return
    lines = [
        *compare_configs(first.sealed.config, second.sealed.config),
        *compare(first.sealed.contents, second.sealed.contents),
    ]
    shown = "\n".join(f"  {line}" for line in lines[:_SHOWN])
    more = f"\n  ... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    raise ImageMismatchError(
        f"Two builds of image {first.name!r} in a row differ, {len(lines)} differences:\n"
        f"{shown}{more}\n",
        "Nothing was recorded. Find out why they differ (docs/images.md lists the usual causes), "
        "and fix it in docker/install.py or images/seal.py.",
    )


def _changes(known: Locked, locked: Locked) -> list[str]:
    lines = compare_configs(known.config.encode(), locked.config.encode())
    if known.size != locked.size:
        difference = locked.size - known.size
        lines.append(f"size: {known.size:,} -> {locked.size:,} bytes ({difference:+,})")
    return lines
