"""A process that is started before its work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import runtime_pythons
from patience import wait_until

from kiln.checks import worker_process

ITEM = {"task": "detect", "runtime": "no-such-runtime", "model": "", "images": {}}
MISSING = {"missing": "no-such-runtime"}


@pytest.fixture
def ahead() -> Iterator[worker_process.Ahead]:
    with contextlib.closing(worker_process.Ahead()) as process:
        yield process


def counting(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let an interpreter be started that writes a line each time; returns the file of lines."""
    starts = folder / "starts"
    text = f'echo "$$ $*" >> {starts}\n{body}\nexec "{runtime_pythons.sys.executable}" "$@"'
    runtime_pythons.use(monkeypatch, runtime_pythons.script(folder, text))
    return starts


def lines(starts: Path, count: int) -> list[str]:
    """The starts, once there are ``count`` of them."""

    def found() -> list[str]:
        started = starts.read_text().splitlines() if starts.exists() else []
        return started if len(started) >= count else []

    return wait_until(found, pause=0.01)


def test_the_work_is_done_by_the_process_that_waits(
    tmp_path: Path, ahead: worker_process.Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = counting(tmp_path, "", monkeypatch)
    ahead.start()
    ahead.start()
    assert lines(starts, 1)[0].endswith(" --ahead")
    assert worker_process.run([ITEM, ITEM], ahead=ahead) == [MISSING, MISSING]
    assert len(lines(starts, 1)) == 1
    # It is used up: more work takes a process of its own.
    assert worker_process.run([ITEM], ahead=ahead) == [MISSING]
    assert len(lines(starts, 2)) == 2


def test_it_has_loaded_what_is_there(
    tmp_path: Path, ahead: worker_process.Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "loaded"
    code = f"open({str(mark)!r}, 'w').close()\nraise ImportError('and then it is not usable')\n"
    runtime_pythons.use(monkeypatch, runtime_pythons.with_module(tmp_path, "mediapipe", code))
    ahead.start()
    wait_until(mark.exists, pause=0.01)
    assert worker_process.run([ITEM], ahead=ahead) == [MISSING]


@pytest.mark.parametrize("end", ["exit 3", "kill -SEGV $$"])
def test_one_that_dies_of_loading_costs_no_item(
    tmp_path: Path, ahead: worker_process.Ahead, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    starts = counting(tmp_path, f'case "$*" in *--ahead) {end};; esac', monkeypatch)
    ahead.start()
    assert worker_process.run([ITEM], ahead=ahead) == [MISSING]
    assert len(lines(starts, 2)) == 2


def test_one_that_hangs_in_loading_costs_no_item(
    tmp_path: Path, ahead: worker_process.Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = counting(tmp_path, 'case "$*" in *--ahead) sleep 600;; esac', monkeypatch)
    ahead.start()
    assert worker_process.run([ITEM], ahead=ahead, silence=10) == [MISSING]
    gone(int(lines(starts, 2)[0].split()[0]))


def test_nobody_took_it(
    tmp_path: Path, ahead: worker_process.Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = counting(tmp_path, "", monkeypatch)
    ahead.start()
    number = int(lines(starts, 1)[0].split()[0])
    assert Path(f"/proc/{number}").exists()
    ahead.close()
    gone(number)
    ahead.start()  # too late: whoever closed it does not come back
    assert worker_process.run([ITEM], ahead=ahead) == [MISSING]
    assert len(lines(starts, 2)) == 2 and not lines(starts, 2)[1].endswith("--ahead")


def test_no_interpreter_is_no_reason_to_fail_early(
    tmp_path: Path, ahead: worker_process.Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_pythons.use(monkeypatch, tmp_path / "nothing")
    ahead.start()
    with pytest.raises(worker_process.UsageError, match="cannot be run"):
        worker_process.run([ITEM], ahead=ahead)


def gone(number: int) -> None:
    assert not Path(f"/proc/{number}").exists()
