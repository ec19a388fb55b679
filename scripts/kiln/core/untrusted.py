"""Read untrusted files, JSON and TOML within bounds.

Their authors may want to stop this process, fill its memory, or lead it to another file. So the
size is checked before anything is read, and returned values are plain, shallow and finite.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any

# Imported by name: the two modules are the same, but no environment has both for type checks.
_toml: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

#: Default bounds: bytes of a document, and levels of nesting in it. Our largest is a check's
#: record, some 200 kB; the deepest has eleven levels.
MAX_BYTES = 16 << 20
MAX_DEPTH = 64

#: TOML is written by people: the longest line of ours is a configuration in a lock, some
#: 600 characters. Parsing a dotted key costs the square of its parts (14 s for 1 MiB of the worst).
MAX_TOML_BYTES = 256 << 10
MAX_TOML_LINE = 4 << 10
MAX_TOML_PARTS = 64
_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'""")


class MalformedError(ValueError):
    """Untrusted input is malformed; the message says why, and follows the thing's name.

    >>> raise MalformedError("is larger than 5 bytes")
    Traceback (most recent call last):
    ...
    kiln.core.untrusted.MalformedError: is larger than 5 bytes
    """


def read_named(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a file that the user named; links and pipes are allowed.

    Raises:
        MalformedError: it is larger than ``limit`` bytes; no more was read.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _at_most(file, limit)


def read_file(path: Path, limit: int = MAX_BYTES, *, links: bool = False) -> bytes:
    """Read a plain file of at most ``limit`` bytes.

    Args:
        links: whether to follow a link to such a file.

    Raises:
        MalformedError: it is larger, or not a plain file; nothing was read then.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    try:
        follow = 0 if links else os.O_NOFOLLOW
        fd = os.open(path, os.O_RDONLY | follow | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink() and not links:
            raise MalformedError("is a symbolic link") from None
        raise
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise MalformedError("is not a plain file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return _at_most(file, limit)
    finally:
        os.close(fd)


def _at_most(file: IO[bytes], limit: int) -> bytes:
    """Read all of a file of at most ``limit`` bytes: check its size, then what was read."""
    if os.fstat(file.fileno()).st_size <= limit:
        # It may still grow: ask for one byte more than allowed.
        data = file.read(limit + 1)
        if len(data) <= limit:
            return data
    raise MalformedError(f"is larger than {limit:,} bytes")


def parse_json(data: bytes | str, *, size: int = MAX_BYTES, depth: int = MAX_DEPTH) -> Any:
    """Parse a JSON document.

    Raises:
        MalformedError: it is larger or nests deeper than allowed, is not JSON, names a key twice,
            or holds something that JSON cannot express (NaN, half of a surrogate pair).
    """
    with _parsing("JSON", depth):
        text = _text(data, size)
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    _check_plain(value, depth)
    return value


def parse_json_object(
    data: bytes | str, *, size: int = MAX_BYTES, depth: int = MAX_DEPTH
) -> dict[str, Any]:
    """Parse a JSON document that must be an object, like :func:`parse_json`."""
    value = parse_json(data, size=size, depth=depth)
    if not isinstance(value, dict):
        raise MalformedError("is not a JSON object")
    return value


def parse_toml(
    data: bytes | str, *, size: int = MAX_TOML_BYTES, line: int = MAX_TOML_LINE
) -> dict[str, Any]:
    """Parse a TOML document.

    Raises:
        MalformedError: it is larger, or has longer lines, than allowed; or it is not TOML.
    """
    with _parsing("TOML", MAX_DEPTH):
        text = _text(data, size)
        _check_lines(text, line)
        table: dict[str, Any] = _toml.loads(text)
    _check_plain(table, MAX_DEPTH)
    return table


@contextlib.contextmanager
def _parsing(language: str, depth: int) -> Iterator[None]:
    """Turn whatever a parser raises into one error."""
    try:
        yield
    except MalformedError:
        raise
    except RecursionError:
        raise MalformedError(f"nests deeper than {depth} levels") from None
    except ValueError as error:
        raise MalformedError(f"is not valid {language}: {error}") from None


def _check_lines(text: str, longest: int) -> None:
    for line in text.split("\n"):
        if len(line) > longest:
            raise MalformedError(f"has a line of more than {longest:,} characters")
        if line.count(".") > MAX_TOML_PARTS:
            bare = _QUOTED.sub("", line).partition("#")[0]
            if bare.count(".") > MAX_TOML_PARTS:
                raise MalformedError(f"has a key of more than {MAX_TOML_PARTS} parts")


def _text(data: bytes | str, size: int) -> str:
    if len(data) > size:
        raise MalformedError(f"is larger than {size:,} bytes")
    return data if isinstance(data, str) else data.decode("utf-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("names a key twice")
    return found


def _no_constant(word: str) -> Any:
    raise MalformedError(f"holds {word}, which is not a number")


def _check_plain(value: Any, depth: int) -> None:
    """Refuse deep nesting, and text that UTF-8 cannot encode; later code would fail on them."""
    level = [value]
    for deep in range(depth + 1):
        if deep == depth and any(isinstance(item, dict | list) for item in level):
            raise MalformedError(f"nests deeper than {depth} levels")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                _check_text("".join(item))
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                _check_text(item)
            elif isinstance(item, float) and item in (float("inf"), float("-inf")):
                raise MalformedError("holds a number that is not finite")
        if not below:
            return
        level = below


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedError("holds half of a surrogate pair, which is not text") from None
