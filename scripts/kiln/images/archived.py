"""Read and check archives of sealed images for ``docker load``: the same bytes from every engine.

An archive follows from ``docker/images.lock``: a tar with the layer first, then the configuration,
then the image's name. So the lock alone decides, byte for byte, whether a file is the archive of a
locked image, and an engine's export is sealed again instead of being trusted.

The store may hold archives; a ref of kind ``image-archive`` names an image's archive. It is only a
hint: the archive is checked against the lock at each use.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from kiln.core.errors import ImageMismatchError
from kiln.core.store import Store
from kiln.images import transfer
from kiln.images.definition import SOURCE_DATE_EPOCH
from kiln.images.lock import Locked
from kiln.images.seal import Sealer, archive_head, archive_tail
from kiln.running.engine import Engine

_REF = "image-archive"
_CHUNK = 4 << 20

#: Returns an archive's bytes from the start, any number of times.
Reader = Callable[[], Iterator[bytes]]


def size_of(locked: Locked) -> int:
    """Compute the size of a locked image's archive in bytes."""
    tail = archive_tail(locked.config.encode(), locked.tag)
    return len(archive_head(locked.size)) + locked.size + len(tail)


def check(chunks: Iterator[bytes], locked: Locked, called: str) -> None:
    """Refuse an archive that is not the locked image's, byte for byte.

    Args:
        called: its name for messages.

    Raises:
        ImageMismatchError: it is another one, or damaged.
    """
    buffer = _Buffer(chunks)
    config = locked.config.encode()
    digest = hashlib.sha256()
    wrong = None
    if f"sha256:{hashlib.sha256(config).hexdigest()}" != locked.identity:
        wrong = "the locked configuration does not match the locked identity"
    elif buffer.take(len(head := archive_head(locked.size))) != head:
        wrong = "its start differs"
    else:
        for chunk in buffer.pieces(locked.size):
            digest.update(chunk)
        tail = archive_tail(config, locked.tag)
        if f"sha256:{digest.hexdigest()}" != locked.layer:
            wrong = f"its layer is sha256:{digest.hexdigest()}, not {locked.layer}"
        elif buffer.take(len(tail)) != tail or buffer.take(1):
            wrong = "its end differs"
    if wrong:
        raise ImageMismatchError(
            f"{called} is not the archive of the sealed image {locked.name!r}: {wrong}.",
            "Copy it again from its source, or write one with `kiln images save`.",
        )


class _Buffer:
    """A stream of chunks, read in other sizes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next ``size`` bytes; fewer at the end."""
        while size:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    return
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            yield piece

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes in one piece."""
        return b"".join(self.pieces(size))


def read(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's bytes from its position."""
    while chunk := file.read(_CHUNK):
        yield chunk


def reading(path: Path) -> Reader:
    """Return a reader of a file."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from read(file)

    return chunks


# -- in the store -------------------------------------------------------------------------------


def stored(store: Store, locked: Locked) -> str | None:
    """Return the SHA-256 of the image's archive, if the store has a ref to one."""
    digest = (store.get_ref(_REF, locked.identity) or {}).get("sha256")
    if not isinstance(digest, str) or not store.has(digest):
        return None
    return digest


def check_stored(store: Store, locked: Locked, digest: str) -> None:
    """Refuse a content of the store that is not the image's archive.

    Raises:
        ImageMismatchError: it is another one.
    """
    check(reading(store.path(digest))(), locked, f"The content {digest}")


def remember(store: Store, locked: Locked, digest: str) -> None:
    """Record in the store which content is the image's archive; see :func:`check_stored`."""
    store.set_ref(_REF, locked.identity, {"sha256": digest})


# -- from an engine -----------------------------------------------------------------------------


@contextlib.contextmanager
def resealed(engine: Engine, image: str, locked: Locked, scratch: Path) -> Iterator[Reader]:
    """Make the archive of the locked image from what the engine holds under the name ``image``.

    A reader that reaches the end without an exception has read the locked image.

    Raises:
        ImageMismatchError: at the end of reading, it is not the locked image.
    """
    with transfer.exported(engine, image, scratch) as (file, settings):

        def chunks() -> Iterator[bytes]:
            file.seek(0)
            repository, _, _ = locked.tag.rpartition(":")
            sealer = Sealer(file, settings, epoch=SOURCE_DATE_EPOCH, repository=repository)
            yield from sealer.archive()
            if sealer.sealed is None or sealer.sealed.identity != locked.identity:
                found = sealer.sealed.identity if sealer.sealed else "nothing"
                raise ImageMismatchError(
                    f"What the engine holds as {image} is not the sealed image {locked.name!r}: "
                    f"it is {found}, not {locked.identity}.",
                    f"Remove it from the engine and run `kiln images build {locked.name}`.",
                )

        yield chunks
