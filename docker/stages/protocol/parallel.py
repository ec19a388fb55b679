"""Run the stages of a request in several processes, each stage as soon as its inputs are made.

A process keeps what it imported and built for its next stages. The results do not depend on which
process made them: a stage is a function of its inputs.

This process runs no stage. It passes the others' events on, so that a line is never torn, and reads
in them when a stage has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from stages.protocol import request as requests
from stages.protocol.events import EventStream, event_line
from stages.protocol.failures import death_of

_CHUNK = 1 << 16

_PATIENCE = 5.0
"""Seconds for a process that has told its last event to end."""


class _Worker:
    """A process that runs the stages it is told, one at a time, with one interpreter."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.step: Optional[requests.Step] = None
        self.events, theirs = os.pipe()
        self._rest = b""
        try:
            self._process = subprocess.Popen(
                [python, "-m", "stages", "--serve"],
                stdin=subprocess.PIPE,
                stdout=theirs,
                cwd=Path(__file__).resolve().parents[2],
            )
        finally:
            os.close(theirs)

    def begin(self, step: requests.Step) -> None:
        """Let the process run a stage; how it ends is in its events."""
        self.step = step
        commands = self._process.stdin
        assert commands is not None
        # If it is dead, its events end, too.
        with contextlib.suppress(BrokenPipeError):
            commands.write(f"{step.id}\n".encode())
            commands.flush()

    def lines(self) -> Optional[list[bytes]]:
        """Return the events that have come; None after the last one."""
        chunk = os.read(self.events, _CHUNK)
        if not chunk:
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines

    def end(self, patience: float = 0) -> int:
        """End the process, whatever it does, but for ``patience`` seconds to end by itself.

        Returns:
            Its exit code; negative for a signal.
        """
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        os.close(self.events)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        return code


class Schedule:
    """Runs stages in up to ``request.processes`` processes, and one of another environment.

    When a stage fails, the ones before it in the request still run: so the failure that is reported
    is the one that a single process would have met.

    Args:
        pythons: stage id -> the interpreter of its environment.
        main: the interpreter whose processes are limited in number.
    """

    def __init__(
        self, request: requests.Request, pythons: Mapping[str, str], main: str, stream: EventStream
    ) -> None:
        self._request, self._pythons, self._main, self._stream = request, pythons, main, stream
        self._waiting = list(request.steps)
        self._order = {step.id: number for number, step in enumerate(request.steps)}
        self._finished: set[str] = set()
        self._failure: Optional[tuple[int, bytes]] = None
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def run(self) -> bool:
        """Run all stages; return whether all succeeded, after telling which one did not."""
        try:
            self._begin_all()
            while any(worker.step is not None for worker in self._workers):
                for key, _ in self._selector.select():
                    if key.data in self._workers:  # not ended meanwhile
                        self._listen(key.data)
                self._begin_all()
        finally:
            for worker in list(self._workers):
                self._dismiss(worker)
            self._selector.close()
        if self._failure is not None:
            self._stream.forward(self._failure[1])
            return False
        return True

    def _begin_all(self) -> None:
        """Let every stage begin that can, in the request's order."""
        for step in list(self._waiting):
            if step.upstream() <= self._finished:
                worker = self._free(self._pythons[step.id])
                if worker is not None:
                    self._waiting.remove(step)
                    worker.begin(step)

    def _free(self, python: str) -> Optional[_Worker]:
        """Return an idle process, a new one if there may be another, or None."""
        alike = [worker for worker in self._workers if worker.python == python]
        for worker in alike:
            if worker.step is None:
                return worker
        if len(alike) >= (self._request.processes if python == self._main else 1):
            return None
        worker = _Worker(python)
        self._workers.append(worker)
        self._selector.register(worker.events, selectors.EVENT_READ, worker)
        return worker

    def _listen(self, worker: _Worker) -> None:
        lines = worker.lines()
        if lines is None:
            step = worker.step
            code = self._dismiss(worker, _PATIENCE)
            if step is not None:
                self._fail(step.id, event_line("failed", step.id, **death_of(code).fields()))
            return
        for line in lines:
            event = json.loads(line)
            if event["event"] == "failed":
                self._dismiss(worker, _PATIENCE)
                self._fail(event["stage"], line + b"\n")
                return
            self._stream.forward(line + b"\n")
            if event["event"] == "finished":
                worker.step = None
                self._finished.add(event["stage"])

    def _fail(self, step_id: str, line: bytes) -> None:
        """Note a failure; end what comes after it in the request."""
        number = self._order[step_id]
        if self._failure is not None and self._failure[0] < number:
            return
        self._failure = number, line
        self._waiting = [step for step in self._waiting if self._order[step.id] < number]
        for worker in list(self._workers):
            if worker.step is not None and self._order[worker.step.id] > number:
                self._dismiss(worker)

    def _dismiss(self, worker: _Worker, patience: float = 0) -> int:
        self._selector.unregister(worker.events)
        self._workers.remove(worker)
        return worker.end(patience)
