from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from places import SCRIPTS
from small_disk import make_read_only, small_disk

from kiln.core import files
from kiln.core.errors import DiskFullError, StoreError


def _tree(root: Path, content: str) -> Path:
    (root / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (root / name).write_text(content)
    return root


def test_write_atomic_replaces_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    old = os.umask(0o077)
    try:
        files.write_atomic(path, b"one")
        assert path.stat().st_mode & 0o777 == 0o644
        files.write_atomic(path, b"two" * 1000, 0o444)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"two" * 1000
    assert path.stat().st_mode & 0o777 == 0o444
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_on_a_full_disk_keeps_the_old_content(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "file"
        files.write_atomic(path, b"old")
        with pytest.raises(DiskFullError, match=r"disk/file \(.* MB free") as caught:
            files.write_atomic(path, bytes(1_000_000))
        assert caught.value.exit_code == 31
        assert path.read_bytes() == b"old"
        assert list(disk.iterdir()) == [path]


def test_write_atomic_that_cannot_rename_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_atomic(tmp_path / "taken", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_guard_names_the_path(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(DiskFullError, match="some/where") as caught,
        files.disk_guard(tmp_path / "some" / "where"),
    ):
        raise OSError(code, os.strerror(code))
    assert "MB free on the file system of" in caught.value.message
    assert caught.value.remedy


def test_out_of_inodes_is_not_called_out_of_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m", inodes=30) as disk:
        with pytest.raises(DiskFullError) as caught:
            for number in range(40):
                files.write_atomic(disk / str(number), b"x")
        assert f"the file system of {disk} has no free inodes" in caught.value.message
        assert "MB free" not in caught.value.message
        assert "whatever their size" in caught.value.remedy
        # And a disk without room is one, however few files it may hold.
        (disk / "0").unlink()
        with pytest.raises(DiskFullError, match="MB free"):
            files.write_atomic(disk / "big", bytes(65 << 20))


def test_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        (disk / "there").write_bytes(b"x")
        make_read_only(disk)
        files.remove(disk / "not there")
        with pytest.raises(StoreError, match=r"disk/there: Read-only file system") as caught:
            files.remove(disk / "there")
        assert "by hand" not in caught.value.remedy


def test_disk_guard_lets_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.disk_guard(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_replace_tree_makes_replaces_and_cleans_up(tmp_path: Path) -> None:
    dest = tmp_path / "deep" / "dest"
    files.replace_tree(_tree(tmp_path / "new1", "one"), dest)
    assert (dest / "sub" / "b").read_text() == "one"
    (dest / "left over").write_text("x")
    files.replace_tree(_tree(tmp_path / "new2", "two"), dest)
    assert sorted(p.name for p in dest.iterdir()) == ["a", "sub"]
    assert (dest / "sub" / "b").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    assert [p.name for p in dest.parent.iterdir()] == ["dest"]


def test_replace_tree_from_another_file_system(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        dest = tmp_path / "dest"
        _tree(dest, "old")
        new = _tree(disk / "new", "new")
        (new / "a").chmod(0o755)
        files.replace_tree(new, dest)
        assert (dest / "sub" / "b").read_text() == "new"
        assert (dest / "a").stat().st_mode & 0o777 == 0o755
        assert not new.exists()
        # and back, where it does not fit
        (dest / "big").write_bytes(bytes(1_000_000))
        kept = _tree(disk / "kept", "kept")
        with pytest.raises(DiskFullError):
            files.replace_tree(dest, kept)
        assert (kept / "a").read_text() == "kept"
        assert [p.name for p in disk.iterdir()] == ["kept"]


def test_replace_tree_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)  # an old kernel
    dest = _tree(tmp_path / "dest", "old")
    files.replace_tree(_tree(tmp_path / "new", "new"), dest)
    assert (dest / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["dest"]


def test_replace_tree_that_fails_restores_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(one: Path, other: Path) -> bool:
        raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(files, "_exchange", fails)
    dest, new = _tree(tmp_path / "dest", "old"), _tree(tmp_path / "new", "new")
    with pytest.raises(StoreError, match="Cannot replace"):
        files.replace_tree(new, dest)
    assert (dest / "a").read_text() == "old"
    assert (new / "a").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dest", "new"]


def test_replace_tree_follows_a_link_and_refuses_a_file(tmp_path: Path) -> None:
    real = _tree(tmp_path / "real", "old")
    link = tmp_path / "link"
    link.symlink_to(real)
    files.replace_tree(_tree(tmp_path / "new", "new"), link)
    assert link.is_symlink()
    assert (real / "a").read_text() == "new"
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="in the way"):
        files.replace_tree(_tree(tmp_path / "new", "new"), tmp_path / "file")
    with pytest.raises(StoreError, match="not a folder"):
        files.replace_tree(tmp_path / "missing", real)


def test_a_reader_never_sees_a_mixture(tmp_path: Path) -> None:
    dest = _tree(tmp_path / "dest", "0")
    stop = threading.Event()
    missing: list[str] = []

    def read() -> None:
        while not stop.is_set():
            if not (dest / "sub" / "b").exists():
                missing.append("gone")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(60):
            files.replace_tree(_tree(tmp_path / f"new{number}", str(number)), dest)
    finally:
        stop.set()
        reader.join()
    assert not missing
    assert (dest / "a").read_text() == (dest / "sub" / "b").read_text() == "59"


def test_killed_while_replacing_the_next_one_carries_on(tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    code = f"""
import sys
from pathlib import Path
from kiln.core import files
number = 0
while True:
    number += 1
    new = Path({str(tmp_path)!r}) / "scratch"
    files.remove(new)
    (new / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        (new / name).write_text(str(number))
    files.replace_tree(new, Path({str(dest)!r}))
    print(number, flush=True)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for delay in (0.0, 0.003, 0.011):
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env=env
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert (dest / "a").read_text() == (dest / "sub" / "b").read_text()
    files.remove(tmp_path / "scratch")
    files.replace_tree(_tree(tmp_path / "new", "last"), dest)
    assert (dest / "a").read_text() == "last"
    assert [p.name for p in tmp_path.iterdir()] == ["dest"]


def nested(folder: Path, depth: int) -> None:
    """Folders in each other, deeper than any path can say."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_remove_takes_what_is_deeper_than_any_path(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "deep"
    # pytest itself ends in a RecursionError when it comes to remove such a folder.
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", root], check=True))
    root.mkdir()
    nested(root, 6_000)
    before = len(list(Path("/proc/self/fd").iterdir()))
    files.remove(root)
    assert not root.exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_remove_follows_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    _tree(kept, "x")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(kept)
    (root / "sub/link").symlink_to(kept)
    os.mkfifo(root / "sub/fifo")
    files.remove(root)
    assert not root.exists()
    assert (kept / "sub/b").read_text() == "x"
    (tmp_path / "alone").symlink_to(kept)
    files.remove(tmp_path / "alone")
    assert (kept / "a").exists()


def test_remove_while_somebody_exchanges_folders_for_links(tmp_path: Path) -> None:
    """However a folder is swapped for a link meanwhile, what the link leads to stays."""
    kept = tmp_path / "kept"
    _tree(kept, "x")
    for _ in range(200):
        root = tmp_path / "root"
        _tree(root, "y")
        lure = tmp_path / "lure"
        lure.symlink_to(kept)

        def swap(root: Path = root, lure: Path = lure) -> None:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    files._exchange(root / "sub", lure)

        thread = threading.Thread(target=swap)
        thread.start()
        with contextlib.suppress(StoreError):  # it may give up while somebody is at work there
            files.remove(root)
        thread.join()
        files.remove(lure)
        files.remove(root)
        assert (kept / "sub/b").read_text() == "x"


def test_remove_takes_folders_that_were_made_unreadable(tmp_path: Path) -> None:
    root = _tree(tmp_path / "root", "x")
    (root / "sub/deep").mkdir()
    (root / "sub/deep").chmod(0)
    (root / "sub").chmod(0)
    root.chmod(0)
    if os.getuid() != 0:
        files.remove(root)
    else:  # whom no mode stops
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path;"
            "from kiln.core.files import remove; os.setuid(65534); remove(Path(sys.argv[1]))"
        )
        place = Path(tempfile.mkdtemp())
        place.chmod(0o777)
        root = root.rename(place / "root")
        for path in (place, root, root / "sub", root / "sub/deep"):
            os.chown(path, 65534, 65534)
        scripts = str(SCRIPTS)
        subprocess.run([sys.executable, "-c", code, str(root), scripts], check=True, cwd="/")
        place.rmdir()
    assert not root.exists()


def test_files_are_counted_however_deep(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = _tree(tmp_path / "root", "x")
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", root], check=True))
    assert files.count_files(root) == 2
    (root / "loop").symlink_to(root)
    assert files.count_files(root) == 3
    nested(root / "sub", 3_000)
    assert files.count_files(root) > 1_000  # as far as a path reaches
    files.remove(root)


def test_remove_takes_everything(tmp_path: Path) -> None:
    root = _tree(tmp_path / "root", "x")
    (root / "link").symlink_to("/etc")
    (root / "sub").chmod(0)
    files.remove(root)
    files.remove(root)
    (tmp_path / "file").write_text("x")
    files.remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    assert Path("/etc").is_dir()


def test_sweep_takes_only_what_the_dead_left(tmp_path: Path) -> None:
    mine = files.aside_of(tmp_path / "file")
    mine.write_text("x")
    # The same pid, started at another time: an owner that is gone.
    pid, _, rest = mine.name.removeprefix(".file.").split("-", 2)
    dead = tmp_path / f".file.{pid}-1-{rest}"
    dead.mkdir()
    (tmp_path / "other").write_text("x")
    assert files.sweep_asides(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([mine.name, "other"])
