"""What a build container writes is what sealing an export gives, byte for byte."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kiln.images import inside, seal
from kiln.images.seal import Sealed, Sealer, archive_head

EPOCH = 1735689600


def rules(*dropped: str) -> dict[str, Any]:
    return {
        "emptied": seal.EMPTIED,
        "blank": seal.ENGINE_FILES,
        "dropped": [*seal.DROPPED, *dropped],
        "epoch": EPOCH,
    }


def written(root: Path, *dropped: str) -> tuple[bytes, str]:
    """The layer of a folder, and the list of its contents."""
    out = io.BytesIO()
    inside.write_layer(out, rules(*dropped), str(root))
    out.seek(0)
    layer = out.read(int(out.readline()))
    listed = out.read(int(out.readline()))
    assert out.read() == b""
    return layer, listed.decode("ascii")


def sealed(root: Path, *left_out: str) -> tuple[bytes, Sealed]:
    """The same by tarfile and the sealer, as an engine's export goes."""
    exported = io.BytesIO()
    with tarfile.open(fileobj=exported, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.iterdir()):
            if path.name not in left_out:
                tar.add(path, path.name)
    exported.seek(0)
    sealer = Sealer(exported, {}, epoch=EPOCH, repository="x")
    archive = b"".join(sealer.archive())
    assert sealer.sealed is not None
    start = len(archive_head(sealer.sealed.size))
    return archive[start : start + sealer.sealed.size], sealer.sealed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with everything that asks for care."""
    root = tmp_path / "root"
    for folder in ("bin", "etc", "tmp/left", "proc/1", "out", "usr/lib", "opt/empty"):
        (root / folder).mkdir(parents=True)
    (root / "bin" / "sh").write_bytes(b"a shell")
    (root / "bin" / "sh").chmod(0o4755)
    (root / "etc" / "hosts").write_text("127.0.0.1 here\n")
    (root / "etc" / "mtab").symlink_to("/proc/mounts")
    (root / ".dockerenv").touch()
    (root / "proc" / "1" / "cmdline").write_text("x")
    (root / "usr" / "lib" / "large").write_bytes(os.urandom((2 << 20) + 7))
    (root / "usr" / "lib" / "block").write_bytes(bytes(512))
    (root / "usr" / "lib" / "z").write_bytes(b"linked")
    (root / "usr" / "lib" / "m").hardlink_to(root / "usr" / "lib" / "z")
    (root / "a-link").hardlink_to(root / "usr" / "lib" / "z")
    (root / "lib").symlink_to("usr/lib")
    (root / "dangling").symlink_to("no/where")
    (root / "opt" / "empty").chmod(0o2775)
    deep = root / "opt" / "/".join(["a-rather-long-folder-name"] * 9)
    deep.mkdir(parents=True)
    (deep / "file with\nnew line and ü").write_text("x")
    (root / "opt" / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    os.mkfifo(root / "opt" / "pipe")
    return root


def test_the_same_bytes_as_sealing_an_export(root: Path) -> None:
    layer, listed = written(root)
    expected, found = sealed(root)
    assert layer == expected
    assert listed.splitlines() == [fact.line() for fact in found.contents]


def test_the_order_of_creation_does_not_matter(root: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    subprocess.run(["cp", "-a", root, again], check=True)
    (again / "aaa").touch()
    (again / "aaa").unlink()
    assert written(again) == written(root)


def test_a_changed_byte_is_another_layer(root: Path) -> None:
    before = written(root)
    (root / "usr" / "lib" / "block").write_bytes(bytes(511) + b"x")
    after = written(root)
    assert before[0] != after[0] and before[1] != after[1]


def test_what_the_build_alone_needs_is_left_out(root: Path) -> None:
    (root / "build").mkdir()
    (root / "build" / "wheel.whl").write_bytes(b"x")
    layer, _ = written(root, "build")
    assert layer == sealed(root, "build")[0]
    assert layer != written(root)[0]


def test_other_file_systems_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = root / "opt" / "empty"
    table = f"1 2 0:1 / {root} rw - x x rw\n3 1 0:2 / {place} rw - tmpfs tmpfs rw\n"
    real = open

    def opened(path: str, *args: Any, **how: Any) -> Any:
        return io.StringIO(table) if path == "/proc/self/mountinfo" else real(path, *args, **how)

    (place / "theirs").write_text("x")
    monkeypatch.setattr(inside, "open", opened, raising=False)
    names = {line.split("\t")[0] for line in written(root)[1].splitlines()}
    assert "opt" in names and not any(name.startswith("opt/empty") for name in names)


def test_a_file_that_shrinks_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = inside._entries

    def shrink(*args: Any) -> Any:
        entries = real(*args)
        (root / "usr" / "lib" / "large").write_bytes(b"x")
        return entries

    monkeypatch.setattr(inside, "_entries", shrink)
    with pytest.raises(SystemExit, match="became shorter"):
        written(root)


def test_it_needs_nothing_but_the_standard_library() -> None:
    """The image's Python runs it from its text, without this project."""
    program = Path(inside.__file__).read_text("utf-8")
    program = program.replace("    main()\n", "    print(GREETING)\n")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(inside.GREETING)


def test_sockets_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(root)
    monkeypatch.chdir(root / "opt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert written(root) == before
