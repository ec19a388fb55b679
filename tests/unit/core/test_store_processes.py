"""The store between processes: scratch, locks, and processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from patience import PATIENCE
from store_results import KEY, result_of

from kiln.core.errors import StoreError
from kiln.core.store import Store


def run_python(code: str, *args: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, env=env)


# -- other processes, and the end of them -------------------------------------------------------


def test_scratch_is_private_and_goes_away(store: Store) -> None:
    with store.scratch() as one, store.scratch() as two:
        assert one != two
        assert one.stat().st_mode & 0o777 == 0o700
        assert one.stat().st_dev == store.root.stat().st_dev
        (one / "sub").mkdir()
        (one / "sub" / "file").write_text("x")
        (one / "sub").chmod(0)
        assert store.sweep() == 0
        assert one.is_dir()
    with pytest.raises(RuntimeError), store.scratch() as three:
        raise RuntimeError
    assert not three.exists()
    assert list((store.root / "tmp").iterdir()) == []


def test_sweep_removes_what_killed_processes_left(store: Store) -> None:
    code = """
import sys, time
from pathlib import Path
from kiln.core.store import Store
store = Store(Path(sys.argv[1]))
with store.scratch() as folder:
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_bytes(b"x" * 1000)
    print("ready", flush=True)
    time.sleep(60)
"""
    with run_python(code, str(store.root)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert store.sweep() == 0  # it lives
        process.send_signal(signal.SIGKILL)
    assert len(list(store.tmp.iterdir())) == 1
    partial = store.downloads / f"{KEY}.part"
    partial.write_bytes(b"to be resumed")
    assert store.sweep() == 1
    assert list(store.tmp.iterdir()) == []
    assert partial.exists()


ADDING = """
import os, sys
from pathlib import Path
from kiln.core.stage_result import Blob, StageResult
from kiln.core.store import Store
from kiln.core.digest import key_of
store = Store(Path(sys.argv[1]))
outside = Path(sys.argv[2])
print("ready", flush=True)
number = 0
while True:
    number += 1
    with store.scratch() as folder:
        data = os.urandom(60_000)
        (folder / "a").write_bytes(data)
        (folder / "b").write_bytes(data[:30_000])
        files = store.add_tree(folder)
        (outside / "c").write_bytes(data[::-1])
        files["c"] = Blob(store.add_file(outside / "c"), len(data))
        files["d"] = Blob(store.add_bytes(data[::-2]), 30_000)
        key = key_of(number)
        store.put_result(StageResult(key, "s", files))
        store.set_ref("last", "result", {"key": key})
"""


def test_killed_at_any_moment_the_store_is_sound(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    picker = random.Random(3)
    for _ in range(8):
        with run_python(ADDING, str(store.root), str(outside)) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(picker.uniform(0.0, 0.06))
            process.send_signal(signal.SIGKILL)
        # nothing half-written can be seen, even before sweeping
        assert store.verify() == []
        for path in (store.root / "results").glob("*.json"):
            assert store.get_result(path.stem) is not None
        last = store.get_ref("last", "result")
        assert last is None or store.get_result(last["key"]) is not None
    store.sweep()
    assert list(store.tmp.iterdir()) == []
    assert not list(store.root.rglob("*.aside"))
    assert store.sweep() == 0
    store.put_result(result_of(store))
    assert store.get_result(KEY) is not None


def test_a_lock_keeps_other_processes_out_until_its_holder_dies(store: Store) -> None:
    code = """
import sys, time
from pathlib import Path
from kiln.core.store import Store
with Store(Path(sys.argv[1])).lock("some/name"):
    print("held", flush=True)
    time.sleep(10**6)
"""
    with run_python(code, str(store.root)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="'some/name'"), store.lock("some/name", timeout=0.2):
            pass
        with store.lock("other", timeout=0.2):
            pass
        process.send_signal(signal.SIGKILL)
        with store.lock("some/name", timeout=PATIENCE):
            pass


def test_a_lock_keeps_other_threads_out(store: Store) -> None:
    inside, seen = 0, []

    def work() -> None:
        nonlocal inside
        for _ in range(5):
            with store.lock("x"):
                inside += 1
                seen.append(inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 20


def test_waiting_for_a_lock_can_be_given_up(store: Store) -> None:
    class GiveUpError(Exception):
        pass

    def give_up() -> None:
        raise GiveUpError

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store.lock("x"):
            held.set()
            done.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    try:
        with pytest.raises(GiveUpError), store.lock("x", while_waiting=give_up):
            pass
    finally:
        done.set()
        thread.join()
