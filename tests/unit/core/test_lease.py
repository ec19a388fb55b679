from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from patience import wait_until

from kiln.core import lease


def _tag_of_a_dead_process() -> str:
    code = "from kiln.core.lease import tagged_name; print(tagged_name())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env()
    )
    return done.stdout.strip()


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_our_own_things_are_not_abandoned(tmp_path: Path) -> None:
    name = lease.tagged_name()
    assert not lease.is_abandoned(tmp_path / name)
    assert not lease.is_abandoned(tmp_path / f".some.name.{name}.aside")
    assert name != lease.tagged_name()


def test_a_dead_owner_is_noticed(tmp_path: Path) -> None:
    name = _tag_of_a_dead_process()
    assert lease.is_abandoned(tmp_path / name)
    assert lease.is_abandoned(tmp_path / f".x.{name}.aside")


def test_a_reused_pid_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    pid, started, rest = lease.tagged_name().split("-", 2)
    assert lease.is_abandoned(tmp_path / f"{pid}-{int(started) + 1}-{rest}")


def test_a_zombie_owns_nothing(tmp_path: Path) -> None:
    code = "import sys; from kiln.core.lease import tagged_name; print(tagged_name(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=_env()) as proc:
        assert proc.stdout is not None
        name = proc.stdout.read().decode().strip()  # to the end: it has exited, nobody waited yet
        wait_until(lambda: lease.is_abandoned(tmp_path / name), pause=0.01)


def test_names_without_a_tag_are_nobodys(tmp_path: Path) -> None:
    for name in ("file", "1-2-3", "12-34-deadbeef", "model-1-2.tflite"):
        assert not lease.is_abandoned(tmp_path / name)


def test_what_a_foreign_owner_left_is_kept_for_a_day(tmp_path: Path) -> None:
    path = tmp_path / "999999999-1-00000000.12345678"
    assert not lease.is_abandoned(path)  # not even there
    path.mkdir()
    assert not lease.is_abandoned(path)
    old = time.time() - lease.FOREIGN_AGE - 60
    os.utime(path, (old, old))
    assert lease.is_abandoned(path)
