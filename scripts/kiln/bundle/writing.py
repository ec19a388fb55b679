"""Write a bundle in one pass, with little memory; the file is complete or absent."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from kiln.bundle.index import INDEX, MAX_INDEX, Index
from kiln.core.errors import StoreError
from kiln.core.files import writing
from kiln.images.archived import Reader
from kiln.images.seal import tar_header

#: Called with the bytes done, and the total.
OnBytes = Callable[[int, int], None]


def member(sha256: str) -> str:
    """Return the name of a content in the tar."""
    return f"blobs/sha256/{sha256}"


def padding(size: int) -> bytes:
    """Return the padding after a member's last block."""
    return bytes(-size % tarfile.BLOCKSIZE)


def end(written: int) -> bytes:
    """Return the end of a tar of so many bytes: two blocks of zeros, padded to a record."""
    size = written + 2 * tarfile.BLOCKSIZE
    return bytes(2 * tarfile.BLOCKSIZE + -size % tarfile.RECORDSIZE)


def total_size(index: Index) -> int:
    """Compute the size of the whole bundle in bytes."""
    sizes = {INDEX: len(index.as_bytes()), **{member(b.sha256): b.size for b in index.blobs}}
    written = sum(
        len(tar_header(name, size)) + size + len(padding(size)) for name, size in sizes.items()
    )
    return written + len(end(written))


def write(target: Path, index: Index, contents: Mapping[str, Reader], on_bytes: OnBytes) -> None:
    """Write a bundle to ``target``.

    Args:
        contents: SHA-256 -> the bytes; each is read once and checked against its digest.

    Raises:
        StoreError: a content does not match the index; no file is left.
        OSError: the file cannot be written.
    """
    head = index.as_bytes()
    if len(head) > MAX_INDEX:
        raise StoreError("There are too many contents for one bundle.", "Make several.")
    total = total_size(index)
    with writing(target) as out:
        out.write(tar_header(INDEX, len(head)) + head + padding(len(head)))
        for blob in index.blobs:
            out.write(tar_header(member(blob.sha256), blob.size))
            digest, size = hashlib.sha256(), 0
            for chunk in contents[blob.sha256]():
                digest.update(chunk)
                size += out.write(chunk)
                on_bytes(out.tell(), total)
            if digest.hexdigest() != blob.sha256 or size != blob.size:
                raise StoreError(
                    f"The store's content {blob.sha256} ({blob.uses[0].name}) is damaged.",
                    "Run `kiln clean --store`, build again, then make the bundle.",
                )
            out.write(padding(size))
        out.write(end(out.tell()))
