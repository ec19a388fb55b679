"""Things that are exchanged while the driver takes them."""

import ctypes
import os
import random
import threading
import time
from pathlib import Path

from stages.plain import OUT, finish, folder, ours, say, write_report

_EXCHANGE = 2
_HERE = -100
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> int:
    """Exchange two names in one step."""
    return int(_libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE))


def _swaps(pairs: list[tuple[Path, Path]], least: int, seconds: float) -> None:
    """Exchange pairs in turn, at least so often and so long."""
    until, count = time.monotonic() + seconds, 0
    while count < least or time.monotonic() < until:
        for one, other in pairs:
            exchange(one, other)
        count += len(pairs)
    say("progress", done=count, total=count, message=f"swapped {count}")


def swap_folder(
    target: str,
    seed: int,
    files: int = 400,
    least: int = 1000,
    seconds: float = 1.5,
    where: str = "m",
) -> int:
    """A folder of files and a link to the host's folder ``target``, whose names it repeats."""
    rng = random.Random(seed)
    say("started")
    root = folder()
    for number in range(files):
        (root / f"a{number:04d}").write_bytes(ours(rng))
        (root / f"z{number:04d}").write_bytes(ours(rng))
    real = root / where
    real.mkdir()
    for name in ("canary", "signing-key.pem", "environ", "passwd"):
        (real / name).write_bytes(ours(rng))
    aside = OUT / "aside"
    aside.symlink_to(target)
    write_report()
    pairs = [(real, aside)]
    swapper = threading.Thread(target=_swaps, args=(pairs, least, seconds))
    swapper.start()
    time.sleep(rng.uniform(0, 0.02))
    finish()
    swapper.join()
    return 0


def swap_files(
    target: str, seed: int, files: int = 300, least: int = 1000, seconds: float = 1.5
) -> int:
    """Files and links to the host's file ``target``, each exchanged again and again."""
    rng = random.Random(seed)
    say("started")
    root = folder()
    pairs = []
    for number in range(files):
        (root / f"f{number:04d}").write_bytes(ours(rng))
        if number % 20 == 0:
            aside = OUT / f"aside-{number}"
            aside.symlink_to(target)
            pairs.append((root / f"f{number:04d}", aside))
    write_report()
    swapper = threading.Thread(target=_swaps, args=(pairs, least, seconds))
    swapper.start()
    time.sleep(rng.uniform(0, 0.02))
    finish()
    swapper.join()
    return 0


def swap_place(
    place: str, target: str, seed: int, least: int = 1000, seconds: float = 1.5, kind: str = "link"
) -> int:
    """The step's folder, its files or its report, and a link (or FIFO) in their place."""
    rng = random.Random(seed)
    say("started")
    root = folder()
    for number in range(200):
        (root / f"f{number:04d}").write_bytes(ours(rng))
    write_report()
    real = {"step": OUT / "work", "files": root, "report": OUT / "work" / "result.json"}[place]
    aside = OUT / "aside"
    if kind == "fifo":
        os.mkfifo(aside)
    else:
        aside.symlink_to(target)
    swapper = threading.Thread(target=_swaps, args=([(real, aside)], least, seconds))
    swapper.start()
    time.sleep(rng.uniform(0, 0.02))
    finish()
    swapper.join()
    return 0


def swap_fifo(seed: int, files: int = 200, least: int = 1000, seconds: float = 1.5) -> int:
    """Files that are a FIFO half of the time: opening one of those waits for ever."""
    rng = random.Random(seed)
    say("started")
    root = folder()
    pairs = []
    for number in range(files):
        (root / f"f{number:04d}").write_bytes(ours(rng))
        if number % 10 == 0:
            aside = OUT / f"aside-{number}"
            os.mkfifo(aside)
            pairs.append((root / f"f{number:04d}", aside))
    write_report()
    swapper = threading.Thread(target=_swaps, args=(pairs, least, seconds))
    swapper.start()
    finish()
    swapper.join()
    return 0


def rewriting(seed: int, how: str, seconds: float = 1.5) -> int:
    """Files that change after they were called finished."""
    rng = random.Random(seed)
    say("started")
    root = folder()
    names = [root / f"f{number:03d}" for number in range(40)]
    for path in names:
        path.write_bytes(ours(rng, 100_000))
    write_report()
    finish()
    until, count = time.monotonic() + seconds, 0
    while count < 1000 or time.monotonic() < until:
        path = rng.choice(names)
        count += 1
        if how == "grow":
            with path.open("ab") as file:
                file.write(b"\0" * 4096)
        elif how == "shrink":
            os.truncate(path, rng.choice([0, 6, 1000])) if path.exists() else None
        elif how == "remove":
            path.unlink(missing_ok=True)
            path.write_bytes(ours(rng, 10))
        elif how == "mode":
            path.chmod(rng.choice([0, 0o200, 0o777, 0o4755]))
        elif how == "names":
            (root / f"n{count}").write_bytes(ours(rng, 1))
        elif how == "report":
            write_report(rng.choice([None, b"{", b"[" * 5000, b"9" * 5000]))
        elif path.exists():
            with path.open("r+b") as file:
                file.seek(rng.randrange(6, 100_000))
                file.write(rng.randbytes(100))
    return 0


def linked_after(target: str, seed: int, seconds: float = 1.0) -> int:
    """Everything becomes a link to the host once it was called finished."""
    rng = random.Random(seed)
    say("started")
    root = folder()
    for number in range(300):
        (root / f"f{number:03d}").write_bytes(ours(rng))
    write_report()
    finish()
    for number in reversed(range(300)):
        path = root / f"f{number:03d}"
        path.unlink()
        path.symlink_to(target)
    (OUT / "work" / "result.json").unlink()
    (OUT / "work" / "result.json").symlink_to(target)
    time.sleep(seconds)
    return 0
