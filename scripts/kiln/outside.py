"""Work in a process apart: native runtimes may crash, hang and chatter without harm to kiln.

The process is :mod:`kiln.runtime_worker`. Each item of work gets its result or the reason why it
has none; an item that kills or blocks the process costs that item alone, the rest goes on in a
new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from kiln import runtime_worker
from kiln.errors import UsageError
from kiln.project import Project

PYTHON_VARIABLE = "KILN_RUNTIMES_PYTHON"
ENVIRONMENT = ".venv-runtimes"
"""Where ``make runtimes`` installs, in the checkout."""

SILENCE = 180.0
"""Seconds without a word from the process after which it counts as hanging. Loading MediaPipe took
4 s and an inference on a 1024 x 1024 input under 2 s on two cores; a busy or emulated machine may
take 30 times as long."""

_DIST_INFO = "lib/python3*/site-packages/*.dist-info"

_WORDS = 300  # characters of a dead process's last words that are told


@dataclass(frozen=True)
class Died:
    """The process ended, or had to be ended, in the middle of an item.

    ``code``: ``crashed`` or ``timeout``. ``reason``: for people, a clause without a full stop.
    ``at``: the file that it worked on, where the item has several.
    """

    code: str
    reason: str
    at: str = ""


Outcome = dict[str, Any] | Died


def python() -> Path:
    """The interpreter that has the runtimes.

    ``KILN_RUNTIMES_PYTHON``; else that of ``.venv-runtimes`` in the checkout, where it is there;
    else the one that runs now.

    Raises:
        UsageError: the one that the variable names is no program.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise UsageError(
                f"{PYTHON_VARIABLE} names {named}, which cannot be run.",
                "Name the Python interpreter that has the runtimes, or unset the variable.",
            )
        return Path(named)
    ours = Project.find().root / ENVIRONMENT / "bin" / "python"
    return ours if ours.exists() else Path(sys.executable)


def installed(*distributions: str) -> list[str]:
    """Which of the distributions the interpreter of :func:`python` has, with their versions.

    Found by the names of folders, without starting it: ``["mediapipe-1.2.0"]``. An interpreter
    that keeps its packages elsewhere than a virtual environment does seems to have none.
    """
    root = python().parent.parent
    names = {name.replace("-", "_") for name in distributions}
    found = {path.name.removesuffix(".dist-info") for path in root.glob(_DIST_INFO)}
    return sorted(name for name in found if name.rpartition("-")[0] in names)


def run(items: Sequence[Mapping[str, Any]], *, silence: float = SILENCE) -> list[Outcome]:
    """Do all items, in order, in as few processes as it takes (one, if nothing dies).

    Args:
        items: as :mod:`kiln.runtime_worker` takes them.
        silence: seconds without a word that are still fine.

    Returns:
        For each item its result, or how the process died at it.

    Raises:
        UsageError: no interpreter, see :func:`python`.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(items):
        outcomes += _one_process(items[len(outcomes) :], silence)
    return outcomes


def _one_process(items: Sequence[Mapping[str, Any]], silence: float) -> list[Outcome]:
    """The outcomes of the first items, at least one; the last may be :class:`Died`."""
    request = {"stages": str(Project.find().docker), "items": list(items)}
    command = [str(python()), "-B", str(Path(runtime_worker.__file__).resolve())]
    results: list[Outcome] = []
    at = ""
    with tempfile.TemporaryFile() as chatter:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=chatter,
                start_new_session=True,
            )
        except OSError as error:
            return [Died("crashed", f"{command[0]} cannot be run: {error.strerror or error}")]
        try:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(request).encode())
            for message in _messages(process.stdout, silence):
                at = "" if "begin" in message else message.get("at", at)
                if "end" in message:
                    results.append(message["result"])
                if len(results) == len(items):
                    break  # how it goes down, and whether it does, is of no interest
            else:
                process.wait(silence)
            died = None
        except (TimeoutError, subprocess.TimeoutExpired):
            died = Died("timeout", f"it gave no sign of life for {silence:g} s and was ended")
        finally:
            _kill(process)
        if len(results) < len(items):
            results.append(replace(died or _death(process.returncode, chatter), at=at))
    return results


def _messages(stream: IO[bytes], silence: float) -> Any:
    """The process's answers as they come, until it closes its end.

    Raises:
        TimeoutError: none for ``silence`` seconds.
    """
    lines: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=silence)
        except queue.Empty:
            raise TimeoutError from None
        if not line:
            return
        with contextlib.suppress(ValueError):  # cut off by a crash
            yield json.loads(line)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it started: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _death(code: int, chatter: IO[bytes]) -> Died:
    if code < 0:
        try:
            what = f"it was ended by {signal.Signals(-code).name}"
        except ValueError:
            what = f"it was ended by signal {-code}"
    else:
        what = f"it ended with exit code {code} and no answer"
    chatter.seek(0)
    lines = chatter.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    shown = "".join(c if c.isprintable() else "?" for c in last[:_WORDS])
    return Died("crashed", f"{what}; its last words: {shown}" if shown else what)
