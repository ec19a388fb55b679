"""Compress contents for their way, and unpack what comes back within bounds.

Every content travels as one gzip member. Where compression saves little (weights, archives) the
member holds it as it is: one name and one format for all, whatever the content.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from kiln.core.errors import DigestMismatchError

_GZIP = 16 + zlib.MAX_WBITS
_CHUNK = 4 << 20
_FAST, _STORED = 1, 0

#: Bytes of a content that are tried first, and the share of them that compression must save.
_SAMPLE = 1 << 20
_WORTH = 0.05

#: Bytes asked for at a time; most contents come in one answer.
PART = 16 << 20


def pack(source: Path, target: Path) -> int:
    """Write the transit form of ``source`` to ``target``; return its size in bytes."""
    with source.open("rb") as file, target.open("xb") as sink:
        first = file.read(_SAMPLE)
        worth = len(zlib.compress(first, _FAST)) < (1 - _WORTH) * len(first)
        packer = zlib.compressobj(_FAST if worth else _STORED, wbits=_GZIP)
        chunk = first
        while chunk:
            sink.write(packer.compress(chunk))
            chunk = file.read(_CHUNK)
        sink.write(packer.flush())
        return sink.tell()


def most_packed(size: int) -> int:
    """Return the most bytes that the transit form of ``size`` bytes can have."""
    return size + size // 1000 + 1024


def unpack(read: Callable[[int, int], bytes], size: int) -> Iterator[bytes]:
    """Yield the content whose transit form ``read(start, end)`` returns, ``size`` bytes of it.

    Raises:
        DigestMismatchError: it is not gzip, has another size, or there is more behind it.
    """
    unpacker = zlib.decompressobj(wbits=_GZIP)
    most, at, got = most_packed(size), 0, 0
    while not unpacker.eof:
        asked = min(PART, most - at)
        part = read(at, at + asked) if asked > 0 else b""
        if not part or len(part) > asked:
            raise _odd(size)
        at += len(part)
        last = len(part) < asked
        while part and not unpacker.eof:
            try:
                # One byte more than there may be is enough to know.
                chunk = unpacker.decompress(part, min(_CHUNK, size - got + 1))
            except zlib.error:
                raise _odd(size) from None
            got += len(chunk)
            if got > size:
                raise _odd(size)
            yield chunk
            part = unpacker.unconsumed_tail
        if last and not unpacker.eof:
            raise _odd(size)
    if got != size or unpacker.unused_data:
        raise _odd(size)


def _odd(size: int) -> DigestMismatchError:
    return DigestMismatchError(
        f"A content from the cache is not one of {size:,} bytes.", "It is made again."
    )
