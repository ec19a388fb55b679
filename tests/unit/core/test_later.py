from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from kiln.core.later import finish, later


def test_nobody_waits_for_it_but_the_end() -> None:
    go, done = threading.Event(), threading.Event()

    def action() -> None:
        go.wait(30)
        done.set()

    later(action)
    assert not done.is_set()
    assert not finish(0.05)
    go.set()
    assert finish(30)
    assert done.is_set()


def test_its_errors_are_nobodys() -> None:
    later(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert finish(30)


def test_a_program_ends_after_it(tmp_path: Path) -> None:
    mark = tmp_path / "done"
    program = (
        "import sys, time, pathlib\n"
        "from kiln.core.later import later\n"
        "later(lambda: (time.sleep(0.5), pathlib.Path(sys.argv[1]).touch()))\n"
        "sys.exit(3)\n"
    )
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program, mark], check=False).returncode == 3
    assert mark.exists()
    assert time.monotonic() - began < 10
