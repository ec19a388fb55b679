"""Too much of something: depth, number, length, bytes."""

import itertools
import os
import random
from pathlib import Path
from typing import IO

from stages.plain import MARK, OUT, finish, folder, ours, say, write_report


def deep(depth: int, seed: int, where: str = "work/files", leaf: bool = True) -> int:
    """Folders in folders."""
    say("started")
    folder()
    (OUT / where).mkdir(parents=True, exist_ok=True)
    here = os.open(OUT / where, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    if leaf:
        file = os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here)
        os.write(file, ours(random.Random(seed)))
    write_report()
    finish()
    return 0


def many(
    count: int, seed: int, kind: str = "file", where: str = "work/files", spread: bool = False
) -> int:
    """Names by the hundred thousand."""
    say("started")
    folder()
    place = OUT / where
    place.mkdir(parents=True, exist_ok=True)
    here = os.open(place, os.O_RDONLY)
    (place / "first").write_bytes(ours(random.Random(seed)))
    for number in range(count):
        name = f"n{number:07d}"
        if spread and number % 1000 == 0:
            os.mkdir(f"s{number}", dir_fd=here)
        if spread:
            name = f"s{number - number % 1000}/{name}"
        try:
            if kind == "folder":
                os.mkdir(name, dir_fd=here)
            elif kind == "link":
                os.link("first", name, src_dir_fd=here, dst_dir_fd=here)
            else:
                os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=here))
        except OSError as error:
            say("warning", message=f"no more after {number}: {error.strerror}")
            break
    write_report()
    finish()
    return 0


def big(size: int, seed: int, what: str = "file", sparse: bool = True, count: int = 1) -> int:
    """Large files, of holes or of bytes."""
    say("started")
    files = folder()
    names = [f"big-{number}" for number in range(count)]
    if what == "report":
        write_report()
        places = [OUT / "work" / "result.json"]
    elif what == "outside":
        places = [OUT / name for name in names]
    else:
        places = [files / name for name in names]
    for place in places:
        with place.open("ab") as file:
            if place.stat().st_size == 0:
                file.write(MARK)
            if sparse:
                file.truncate(size)
            else:
                _fill(file, size)
    if what != "report":
        write_report()
    finish()
    return 0


def _fill(file: IO[bytes], size: int) -> None:
    chunk = b"\0" * (1 << 20)
    for _ in range(size >> 20):
        file.write(chunk)


def endless(seed: int, where: str = "work/files/endless", finished: bool = False) -> int:
    """Bytes until somebody stops it."""
    say("started")
    folder()
    place = OUT / where
    if finished:
        place.write_bytes(MARK)
        write_report()
        finish()
    with place.open("ab", buffering=0) as file:
        file.write(MARK)
        for number in itertools.count():
            try:
                file.write(b"\0" * (1 << 20))
            except OSError as error:
                say("warning", message=f"no more after {number} MiB: {error.strerror}")
                break
    write_report()
    finish()
    return 0


def endless_names(seed: int) -> int:
    """New names until somebody stops it."""
    say("started")
    files = folder()
    for number in itertools.count():
        try:
            Path(files / f"n{number}").touch()
        except OSError:
            break
    write_report()
    finish()
    return 0


def names(kind: str, seed: int, place: str = "file") -> int:
    """Names that are hard to say."""
    rng = random.Random(seed)
    say("started")
    files = folder()
    odd = {
        "latin-1": [b"caf\xe9", b"\xff\xfe", b"a\x80b", b"\xed\xa0\x80"],
        "control": [b"a\nb", b"a\rb", b"\x1b[2J\x1b[31mred", b"\x07", b"a\tb", b"\x7f"],
        "bidi": ["\u202egpj.exe".encode(), "\u2066a\u2069".encode(), "\u200fx".encode()],
        "invisible": ["\u200b".encode(), "\ufeff".encode(), "\u00ad".encode(), b" ", b"  x  "],
        "long": [b"n" * 255, ("\u00e9" * 127).encode()],
        "dots": [b"...", b"..a", b".hidden", b"a.", b"CON", b"aux.txt"],
        "backslash": [b"..\\..\\canary", b"C:\\x", b"\\\\host\\x"],
        "percent": [b"%2e%2e%2fcanary", b"%s%s%n", b"{0.__class__}", b"$(touch x)", b"`id`"],
        "option": [b"-rf", b"--help", b"-"],
        "unicode": [
            "e\u0301".encode(),
            "\u00e9".encode(),
            "\U0001f525".encode(),
            b"K",
            "\u212a".encode(),
        ],
        "json": [b'a"b', b"a\\u0000", b"'", b'"},{"', b"null"],
        "result": [b"result.json", b"files", b"work"],
    }[kind]
    for name in rng.sample(odd, len(odd)):
        path = files / os.fsdecode(name)
        if place == "folder":
            path.mkdir()
            path /= "inside"
        path.write_bytes(ours(rng))
    write_report()
    finish()
    return 0
