"""Links and other things that are no plain file, in the place of one."""

import os
import random
import socket
from pathlib import Path

from stages.plain import OUT, finish, folder, ours, say, write_report

#: Where a thing can be put: what the driver will look for there.
PLACES = {
    "step": "work",
    "files": "work/files",
    "report": "work/result.json",
    "file": "work/files/model.tflite",
    "folder": "work/files/variables",
    "deep": "work/files/a/b/c/d",
}


def prepared(place: str, seed: int) -> Path:
    """A sound result but for ``place``, whose parents exist; returns its path."""
    rng = random.Random(seed)
    say("started")
    target: Path = OUT / PLACES[place]
    if place != "step":
        files = folder() if place != "files" else None
        if files is not None:
            for name in ("aa", "zz"):
                (files / name).write_bytes(ours(rng))
        if place != "report":
            write_report()
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def link(place: str, target: str, seed: int) -> int:
    """A symbolic link there."""
    prepared(place, seed).symlink_to(target)
    finish()
    return 0


def chain(place: str, target: str, seed: int, length: int = 60) -> int:
    """A link to a link to a link."""
    end = prepared(place, seed)
    aside = OUT / "work" if place != "step" else OUT
    last = target
    for number in range(length):
        one = aside / f"chain-{number}"
        one.symlink_to(last)
        last = f"/out/{one.relative_to(OUT)}"
    end.symlink_to(os.path.relpath(last, end.parent))
    finish()
    return 0


def hard_link(place: str, seed: int, source: str) -> int:
    """A second name of another file: one of ours, of our input, or of the code."""
    path = prepared(place, seed)
    if source == "ours":
        (OUT / "other").write_bytes(ours(random.Random(seed)))
        source = OUT / "other"
    try:
        os.link(source, path)
    except OSError:  # another file system, as it should be
        path.write_bytes(ours(random.Random(seed)))
    finish()
    return 0


def odd(place: str, kind: str, seed: int) -> int:
    """A FIFO, socket or folder there."""
    path = prepared(place, seed)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.chdir(path.parent)
        socket.socket(socket.AF_UNIX).bind(path.name)
    elif kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(ours(random.Random(seed)))
    elif kind == "device":
        try:
            os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero
        except OSError:
            os.mkfifo(path)
    finish()
    return 0


def locked(place: str, mode: int, seed: int) -> int:
    """A file or folder with odd rights."""
    path = prepared(place, seed)
    if place in ("step", "files", "folder"):
        path.mkdir(exist_ok=True)
        (path / "inside").write_bytes(ours(random.Random(seed)))
    else:
        write_report() if place == "report" else path.write_bytes(ours(random.Random(seed)))
    path.chmod(mode)
    finish()
    return 0
