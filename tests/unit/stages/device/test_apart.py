"""Work in a child process, and every way that one can end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from stages.device import apart
from stages.device.apart import Died


def test_what_work_returns_comes_back() -> None:
    assert apart.run(lambda tell: {"found": [1, 0.25, None]}) == {"found": [1, 0.25, None]}


def test_a_large_result_comes_back_whole() -> None:
    numbers = list(range(100_000))
    assert apart.run(lambda tell: numbers) == numbers


def test_it_is_another_process() -> None:
    assert apart.run(lambda tell: os.getpid()) != os.getpid()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_named(number: signal.Signals) -> None:
    def work(tell: apart.Tell) -> None:
        tell("second.tflite")
        os.kill(os.getpid(), number)

    found = apart.run(work)
    reason = f"its process was ended by {number.name}"
    assert found == Died("crashed", reason, "second.tflite")


def test_an_exit_is_a_crash_too() -> None:
    def work(tell: apart.Tell) -> None:
        os._exit(3)

    assert apart.run(work) == Died("crashed", "its process ended with code 3")


def test_a_hang_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "pid"

    def work(tell: apart.Tell) -> None:
        mark.write_text(str(os.getpid()))
        tell("a.tflite")
        time.sleep(600)

    found = apart.run(work, silence=1.0)
    assert found == Died("timeout", "no sign of life for 1 s", "a.tflite")
    assert not Path(f"/proc/{mark.read_text()}").exists()


def test_work_that_goes_on_may_take_longer() -> None:
    def work(tell: apart.Tell) -> str:
        for number in range(6):
            time.sleep(0.25)
            tell(number)
        return "done"

    assert apart.run(work, silence=1.0) == "done"
