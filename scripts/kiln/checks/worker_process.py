"""Run work in a separate process, so that crashes and hangs of native runtimes do not harm kiln.

The process is :mod:`kiln.checks.runtime_worker`. Each item of work gets its result or the reason
why it has none. An item that crashes or blocks the process costs only that item; the rest goes on
in a new process. Loading the runtimes takes over a second, so a process can be started
:class:`Ahead` of its work.
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

from kiln.checks import runtime_worker
from kiln.core.errors import UsageError
from kiln.project.folders import Project, own_resources

PYTHON_VARIABLE = "KILN_RUNTIMES_PYTHON"
ENVIRONMENT = ".venv-runtimes"
"""Where ``make runtimes`` installs, in the checkout."""

SILENCE = 180.0
"""Seconds without a message after which the process counts as hung. Loading MediaPipe took
4 s and an inference on a 1024 x 1024 input under 2 s on two cores; a busy or emulated machine may
take 30 times as long."""

_DIST_INFO = "lib/python3*/site-packages/*.dist-info"

_WORDS = 300  # most characters of a dead process's last output in a message


@dataclass(frozen=True)
class Died:
    """The process ended, or was ended, in the middle of an item.

    ``code``: ``crashed`` or ``timeout``. ``reason``: for people, a clause without a full stop.
    ``at``: the file that it was working on, where the item has several.
    """

    code: str
    reason: str
    at: str = ""


Outcome = dict[str, Any] | Died


def python() -> Path:
    """Return the interpreter that has the runtimes.

    ``KILN_RUNTIMES_PYTHON``; else that of ``.venv-runtimes`` in the checkout, if there is one;
    else the running one. An installed kiln runs no program from the current folder.

    Raises:
        UsageError: the variable does not name a program.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise UsageError(
                f"{PYTHON_VARIABLE} names {named}, which cannot be run.",
                "Name the Python interpreter that has the runtimes, or unset the variable.",
            )
        return Path(named)
    project = Project.find()
    ours = project.root / ENVIRONMENT / "bin" / "python"
    return ours if project.package is None and ours.exists() else Path(sys.executable)


def installed(*distributions: str) -> list[str]:
    """List the distributions that the interpreter of :func:`python` has, with their versions.

    They are found by folder name, without starting it: ``["mediapipe-1.2.0"]``. Packages outside
    the usual place of a virtual environment are not found.
    """
    root = python().parent.parent
    names = {name.replace("-", "_") for name in distributions}
    found = {path.name.removesuffix(".dist-info") for path in root.glob(_DIST_INFO)}
    return sorted(name for name in found if name.rpartition("-")[0] in names)


class _Process:
    """One process of :mod:`kiln.checks.runtime_worker`, and its other output.

    Raises:
        UsageError: no interpreter, see :func:`python`.
        OSError: it cannot be run.
    """

    def __init__(self, *, ahead: bool = False) -> None:
        self.ahead = ahead
        command = [str(python()), "-B", str(Path(runtime_worker.__file__).resolve())]
        self.chatter = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        try:
            self.popen = subprocess.Popen(
                command + ["--ahead"] * ahead,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.chatter,
                start_new_session=True,
            )
        except OSError:
            self.chatter.close()
            raise

    def end(self) -> None:
        """End it and all its children: it leads its own session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError):  # what was not yet written to it
                if stream is not None:
                    stream.close()


class Ahead:
    """A process that loads the runtimes before they are needed.

    :meth:`start` may be called at any time, from any thread, more than once; the creator calls
    :meth:`close`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._done = False

    def start(self) -> None:
        """Start it, unless it was started; a failure is reported by the work itself."""
        with self._lock, contextlib.suppress(OSError, UsageError):
            if not self._done:
                self._done = True
                self._process = _Process(ahead=True)

    def take(self) -> _Process | None:
        """Hand over the process, once; ``None`` where there is none."""
        with self._lock:
            process, self._process = self._process, None
            return process

    def close(self) -> None:
        """End a process that was not taken."""
        with self._lock:
            self._done = True
        process = self.take()
        if process is not None:
            process.end()
            process.chatter.close()


def run(
    items: Sequence[Mapping[str, Any]], *, silence: float = SILENCE, ahead: Ahead | None = None
) -> list[Outcome]:
    """Run all items, in order, in as few processes as possible (one, if nothing crashes).

    Args:
        items: as :mod:`kiln.checks.runtime_worker` accepts them.
        silence: most seconds without a message.
        ahead: a process started before, to be used first.

    Returns:
        For each item its result, or how the process died during it.

    Raises:
        UsageError: no interpreter, see :func:`python`.
    """
    outcomes: list[Outcome] = []
    process = ahead.take() if ahead is not None and items else None
    while len(outcomes) < len(items):
        outcomes += _one_process(items[len(outcomes) :], silence, process)
        process = None
    return outcomes


def _one_process(
    items: Sequence[Mapping[str, Any]], silence: float, process: _Process | None
) -> list[Outcome]:
    """Return the outcomes of the first items; the last may be :class:`Died`.

    There is at least one, unless ``process`` was started ahead and died before any item: a failure
    while loading for one item is not the fault of another.
    """
    request = {"stages": str(own_resources() / "docker"), "items": list(items)}
    results: list[Outcome] = []
    at, begun = "", False
    try:
        process = process or _Process()
    except OSError as error:
        return [Died("crashed", f"{python()} cannot be run: {error.strerror or error}")]
    died = None
    with process.chatter:
        try:
            stdin, stdout = process.popen.stdin, process.popen.stdout
            assert stdin is not None and stdout is not None
            with contextlib.suppress(BrokenPipeError), stdin:
                stdin.write(json.dumps(request).encode())
            for message in _messages(stdout, silence):
                begun = True
                at = "" if "begin" in message else message.get("at", at)
                if "end" in message:
                    results.append(message["result"])
                if len(results) == len(items):
                    break  # how the process ends does not matter
            else:
                process.popen.wait(silence)
        except (TimeoutError, subprocess.TimeoutExpired):
            died = Died("timeout", f"it sent no message for {silence:g} s and was ended")
        finally:
            process.end()
        if len(results) < len(items) and (begun or not process.ahead):
            found = died or _death(process.popen.returncode, process.chatter)
            results.append(replace(found, at=at))
    return results


def _messages(stream: IO[bytes], silence: float) -> Any:
    """Yield the process's answers as they come, until it closes its end.

    Raises:
        TimeoutError: no message for ``silence`` seconds.
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
    return Died("crashed", f"{what}; its last output: {shown}" if shown else what)
