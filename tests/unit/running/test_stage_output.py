"""kiln.running.stage_output: files of a stage's are taken by descriptor, and nothing else is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kiln.core.errors import DiskFullError, StageOutputError
from kiln.core.files import remove
from kiln.core.store import Store
from kiln.running.limits import Limits
from kiln.running.stage_output import MAX_DEPTH, MAX_REPORT, StageOutput, chunks_of

SECRET = b"a file of the host's that no stage may see"


class Bench:
    """One container's output, and what would be taken of its step ``one``."""

    def __init__(self, tmp_path: Path, limits: Limits) -> None:
        self.secret = tmp_path / "secret"
        self.secret.write_bytes(SECRET)
        self.out = tmp_path / "out"
        self.out.mkdir()
        self.files = self.out / "one" / "files"
        self.output = StageOutput(self.out, os.getuid(), limits)

    def take(self) -> dict[str, bytes]:
        return {
            file.name: b"".join(chunks_of(file.fd, 1 << 20, file.name))
            for file in self.output.files("one")
        }

    def refused(self, *words: str) -> None:
        with pytest.raises(StageOutputError) as caught:
            self.take()
        for word in words:
            assert word in caught.value.message
        assert caught.value.exit_code == 27


@pytest.fixture
def limits() -> Limits:
    return replace(Limits(), output_files=500)


@pytest.fixture
def bench(tmp_path: Path, limits: Limits) -> Iterator[Bench]:
    made = Bench(tmp_path, limits)
    made.files.mkdir(parents=True)
    yield made
    made.output.close()
    remove(made.out)


def test_files_are_taken_with_their_names(bench: Bench) -> None:
    (bench.files / "a").write_bytes(b"1")
    (bench.files / "deep/er").mkdir(parents=True)
    (bench.files / "deep/er/é").write_bytes(b"2")
    (bench.out / "two").mkdir()
    assert bench.take() == {"a": b"1", "deep/er/é": b"2"}


def _link(bench: Bench) -> None:
    (bench.files / "x").symlink_to(bench.secret)


def _folder_link(bench: Bench) -> None:
    (bench.files / "x").symlink_to(bench.secret.parent)


def _hard_link(bench: Bench) -> None:
    (bench.files / "x").hardlink_to(bench.secret)


def _fifo(bench: Bench) -> None:
    os.mkfifo(bench.files / "x")


def _socket(bench: Bench) -> None:
    here = Path.cwd()
    os.chdir(bench.files)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("x")
    finally:
        os.chdir(here)


def _device(bench: Bench) -> None:
    if os.getuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(bench.files / "x", 0o20666, os.makedev(1, 5))  # /dev/zero


def _other_owner(bench: Bench) -> None:
    if os.getuid() != 0:
        pytest.skip("only root gives files away")
    (bench.files / "x").write_bytes(b"1")
    os.chown(bench.files / "x", 4001, 4001)


def _control(bench: Bench) -> None:
    (bench.files / "x\x1b[2J").write_bytes(b"1")


def _bidi(bench: Bench) -> None:
    (bench.files / "x\u202egnp.exe").write_bytes(b"1")


def _backslash(bench: Bench) -> None:
    (bench.files / "x\\y").write_bytes(b"1")


def _not_utf8(bench: Bench) -> None:
    Path(os.fsdecode(os.fsencode(bench.files) + b"/x\xff")).write_bytes(b"1")


def _deep(bench: Bench) -> None:
    (bench.files / "/".join(["x"] * (MAX_DEPTH + 1))).mkdir(parents=True)


def _long(bench: Bench) -> None:
    (bench.files / "/".join(["x" * 250] * 5)).mkdir(parents=True)


def _many(bench: Bench) -> None:
    for number in range(501):
        (bench.files / f"x{number}").touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_link, "neither a plain file nor a folder"),
        (_folder_link, "neither a plain file nor a folder"),
        (_hard_link, "2 names"),
        (_fifo, "neither a plain file nor a folder"),
        (_socket, "neither a plain file nor a folder"),
        (_device, "neither a plain file nor a folder"),
        (_other_owner, "belongs to user 4001"),
        (_control, "unprintable character"),
        (_bidi, "unprintable character"),
        (_backslash, "unprintable character"),
        (_not_utf8, "not UTF-8"),
        (_deep, "more than 16 folders deep"),
        (_long, "longer than 1024"),
        (_many, "more than 500 files"),
    ],
)
def test_what_is_no_plain_file_is_not_taken(
    bench: Bench, make: Callable[[Bench], None], words: str
) -> None:
    make(bench)
    bench.refused(words)


@pytest.mark.parametrize("place", ["one", "one/files", "one/result.json"])
@pytest.mark.parametrize("what", ["link", "fifo", "missing", "file or folder"])
def test_the_places_that_are_looked_at_first(bench: Bench, place: str, what: str) -> None:
    (bench.out / "one/result.json").write_bytes(b"{}")
    path = bench.out / place
    was_folder = path.is_dir()
    remove(path)
    if what == "link":
        path.symlink_to(bench.secret.parent if was_folder else bench.secret)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "file or folder":
        path.touch() if was_folder else path.mkdir()
    with pytest.raises(StageOutputError):
        bench.output.report("one")
        bench.take()


def test_a_report_has_a_largest_size(bench: Bench) -> None:
    with (bench.out / "one/result.json").open("wb") as file:
        file.truncate(MAX_REPORT)
    assert len(bench.output.report("one")) == MAX_REPORT
    with (bench.out / "one/result.json").open("wb") as file:
        file.truncate(3 << 40)
    with pytest.raises(StageOutputError, match=r"larger than"):
        bench.output.report("one")


def test_a_file_that_grows_while_it_is_read(bench: Bench) -> None:
    (bench.files / "x").write_bytes(b"1" * 100)
    for file in bench.output.files("one"):
        with pytest.raises(StageOutputError, match="larger than 1,000 bytes"):
            for _ in chunks_of(file.fd, 1000, file.name):
                with (bench.files / "x").open("ab") as more:
                    more.write(b"2" * 1000)


RACES = 1_000


@pytest.mark.parametrize("what", ["file", "folder", "step"])
def test_nothing_outside_is_read_whatever_is_exchanged_meanwhile(bench: Bench, what: str) -> None:
    """A thread exchanges what is taken for a link to the host's, without a pause.

    The stage's own bytes and an error are both fine; those of the host's file are not.
    """
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    honest = bench.files / "z"
    honest.mkdir()
    (honest / "secret").write_bytes(b"the stage's own")
    place, lure = {
        "file": (honest / "secret", bench.out / "lure"),
        "folder": (honest, bench.out / "lure"),
        "step": (bench.files, bench.out / "lure"),
    }[what]
    target = {
        "file": bench.secret,
        "folder": bench.secret.parent,
        "step": bench.secret.parent.parent,
    }[what]
    if what == "step":
        (bench.secret.parent.parent / "z").symlink_to(bench.secret.parent)
    lure.symlink_to(target)
    swaps, done = 0, threading.Event()

    def swap() -> None:
        nonlocal swaps
        one, other = os.fsencode(place), os.fsencode(lure)
        while not done.is_set():
            swaps += exchange(-100, one, -100, other, ctypes.c_uint(2)) == 0

    thread = threading.Thread(target=swap)
    thread.start()
    taken = refusals = 0
    try:
        while (swaps < RACES or not taken or not refusals) and taken + refusals < 200_000:
            try:
                found = bench.take()
                taken += 1
                assert set(found.values()) <= {b"the stage's own"}
            except StageOutputError:
                refusals += 1
    finally:
        done.set()
        thread.join()
        if what == "step":
            (bench.secret.parent.parent / "z").unlink()
    assert swaps >= RACES
    assert taken
    assert refusals  # the race was run, and lost at times


def test_what_is_kept_is_what_was_read(bench: Bench, tmp_path: Path) -> None:
    """A file that changes after it was taken changes nothing in the store."""
    store = Store(tmp_path / "store")
    (bench.files / "x").write_bytes(b"first")
    for file in bench.output.files("one"):
        blob = store.add_new(chunks_of(file.fd, 100, file.name))
    with (bench.files / "x").open("r+b") as file:
        file.write(b"other")
    assert store.path(blob.sha256).read_bytes() == b"first"
    assert store.path(blob.sha256).stat().st_nlink == 1
    assert store.verify() == []
    assert list(store.tmp.iterdir()) == []


# --- while the container runs ------------------------------------------------------------------


def watching(tmp_path: Path, **limits: int) -> Bench:
    bench = Bench(tmp_path, replace(Limits(), **limits))
    bench.files.mkdir(parents=True)
    return bench


def test_use_is_bounded(tmp_path: Path) -> None:
    bench = watching(tmp_path, output=1 << 20, output_files=50)
    bench.output.check_use()
    (bench.files / "x").write_bytes(b"1" * (2 << 20))
    with pytest.raises(StageOutputError, match="wrote the 1 MiB"):
        bench.output.check_use()
    (bench.files / "x").unlink()
    with (bench.files / "sparse").open("wb") as file:
        file.truncate(1 << 40)  # fills nothing
    bench.output.check_use()
    for number in range(60):
        (bench.files / f"{number}").touch()
    with pytest.raises(StageOutputError, match="more than 50 files"):
        bench.output.check_use()
    bench.output.close()


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = watching(tmp_path)
    real = os.fstatvfs
    full = os.statvfs_result((4096, 4096, 100, 0, 0, 100, 10, 10, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: full)
    with pytest.raises(DiskFullError, match="nearly full"):
        bench.output.check_use()
    monkeypatch.setattr(os, "fstatvfs", real)
    bench.output.check_use()
    bench.output.close()


def test_counting_meets_links_and_depth_without_harm(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bench = watching(tmp_path)
    # pytest itself ends in a RecursionError when it comes to remove such a folder.
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", bench.out], check=True))
    (bench.files / "loop").symlink_to(bench.files)
    (bench.files / "host").symlink_to("/")
    os.mkfifo(bench.files / "fifo")
    nested(bench.files, 3000)
    before = len(list(Path("/proc/self/fd").iterdir()))
    bench.output.check_use()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    bench.refused()
    bench.output.close()
    remove(bench.out)
    assert not bench.out.exists()


def nested(folder: Path, depth: int) -> None:
    """Folders in each other, deeper than any path can say."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        with contextlib.suppress(FileExistsError):
            os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
