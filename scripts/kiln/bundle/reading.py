"""Import a bundle and verify every byte of it.

The tar is not parsed. The index determines which members there must be, so every header, padding
and the end are compared with those of a bundle with that index. Another member, link, name, order,
size or time does not match.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kiln.bundle.index import INDEX, MAX_INDEX, FirstUse, Index, damaged, parse
from kiln.bundle.writing import OnBytes, end, member, padding, total_size
from kiln.core.errors import ArchiveError, DigestMismatchError, ImageMismatchError, UsageError
from kiln.core.store import Store
from kiln.images import archived
from kiln.images.seal import tar_header
from kiln.sources import packed, pypi

_CHUNK = 4 << 20


def _silent(done: int, total: int) -> None:
    """Ignore progress; the default listener."""


@dataclass(frozen=True)
class Imported:
    """The result of an import: the index, and how many contents were new to the store.

    ``first_uses`` are models whose archive is trusted from now on because the bundle had it;
    ``kept`` those for which this machine remembers another archive, and still does.
    """

    index: Index
    new: int
    first_uses: tuple[str, ...]
    kept: tuple[str, ...]


def import_bundle(path: Path, store: Store, on_bytes: OnBytes = _silent) -> Imported:
    """Import a whole bundle into the store.

    Contents are imported one by one, each completely or not at all; facts to remember come last,
    after every byte of the bundle was verified.

    Raises:
        UsageError: there is no such file.
        ArchiveError: it is not a bundle, damaged, truncated, or has something in it that the index
            does not list; complete contents stay in the store.
        DigestMismatchError: a model's archive is not the one first used on this machine.
        StoreError, DiskFullError: the store cannot be written.
    """
    try:
        with path.open("rb") as file:
            length = path.stat().st_size
            index = _index(file, path)
            if (whole := total_size(index)) != length:
                raise damaged(str(path), f"it has {length:,} bytes instead of {whole:,}")
            _refuse_other_archives(index, store)
            new = sum(not store.has(blob.sha256) for blob in index.blobs)
            _take(file, path, index, store, lambda done: on_bytes(done, whole))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path."
        ) from error
    _hold_images(path, index, store)
    return _remember(index, store, new)


def read_index(path: Path) -> Index:
    """Read the index of a bundle; its contents are not checked.

    Raises:
        UsageError, ArchiveError: see :func:`import_bundle`.
    """
    try:
        with path.open("rb") as file:
            return _index(file, path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or error}.", "Check the path."
        ) from error


def _index(file: IO[bytes], path: Path) -> Index:
    head = file.read(tarfile.BLOCKSIZE)
    try:
        info = tarfile.TarInfo.frombuf(head, "utf-8", "strict")
    except (tarfile.TarError, UnicodeDecodeError) as error:
        raise _no_bundle(path) from error
    if head != tar_header(INDEX, info.size) or info.size > MAX_INDEX:
        raise _no_bundle(path)
    data = file.read(info.size)
    if len(data) != info.size or file.read(len(padding(info.size))) != padding(info.size):
        raise damaged(str(path), "it is truncated")
    return parse(data, str(path))


def _no_bundle(path: Path) -> ArchiveError:
    return ArchiveError(
        f"{path} is not a bundle (or its start is damaged).",
        "`kiln bundle create` makes one. For a sealed image alone, use `kiln images load`.",
    )


def _refuse_other_archives(index: Index, store: Store) -> None:
    for item in index.refs:
        if isinstance(item, FirstUse):
            known = packed.remembered(store, item.model)
            if known is not None and known[0] == item.url and known[1] != item.sha256:
                raise DigestMismatchError(
                    f"The bundle's archive of {item.model!r} is not the one that was first used "
                    f"here: SHA-256 {item.sha256}, not {known[1]}.",
                    "If you trust the new one, pin it in the recipe, in [source], with its sha256.",
                )


def _take(
    file: IO[bytes], path: Path, index: Index, store: Store, on_done: Callable[[int], None]
) -> None:
    def expect(data: bytes, what: str) -> None:
        if file.read(len(data)) != data:
            raise damaged(str(path), what)

    def content(size: int) -> Iterator[bytes]:
        while size:
            chunk = file.read(min(size, _CHUNK))
            if not chunk:
                raise damaged(str(path), "it is truncated")
            size -= len(chunk)
            on_done(file.tell())
            yield chunk

    for blob in index.blobs:
        name = f"{blob.uses[0].name} ({blob.sha256[:16]})"
        expect(
            tar_header(member(blob.sha256), blob.size),
            f"unexpected data where {name} should begin",
        )
        try:
            store.add_chunks(content(blob.size), blob.size, blob.sha256)
        except DigestMismatchError as error:
            raise damaged(str(path), f"{name} is damaged") from error
        expect(padding(blob.size), f"unexpected data after {name}")
    expect(end(file.tell()), "unexpected data where it should end")
    if file.read(1):
        raise damaged(str(path), "unexpected data after its end")


def _hold_images(path: Path, index: Index, store: Store) -> None:
    for image in index.images:
        try:
            archived.check_stored(store, image.locked, image.sha256)
        except ImageMismatchError as error:
            raise damaged(str(path), error.message.rstrip(".")) from error


def _remember(index: Index, store: Store, new: int) -> Imported:
    """Remember what follows from the contents; facts that are already known do not change."""
    first_uses, kept = [], []
    for image in index.images:
        archived.remember(store, image.locked, image.sha256)
    for item in index.refs:
        if isinstance(item, FirstUse):
            known = packed.remembered(store, item.model)
            if known is None:
                packed.remember(store, item.model, item.url, item.sha256)
                first_uses.append(item.model)
            elif known[0] != item.url:
                kept.append(item.model)
        else:
            pin = pypi.Pin(item.name, item.version, frozenset(item.hashes))
            machine: pypi.Machine = {"python": item.python, "platforms": item.platforms}
            if pypi.recall(store, pin, **machine) is None:
                size = store.path(item.sha256).stat().st_size
                chosen = pypi.Chosen(item.filename, item.sha256, size)
                pypi.remember(store, pin, chosen, **machine)
    return Imported(index, new, tuple(first_uses), tuple(kept))
