"""Run work in a child process, so that a crash of native code is a result.

A runtime that is given a file it cannot cope with may end its process, or never return. The child
is a fork: what the stage has imported is there already.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Union

SILENCE = 180.0
"""Seconds without a message after which a child is given up: many times the slowest run."""

Tell = Callable[[Any], None]
"""Reports that work goes on; takes JSON data."""


@dataclass(frozen=True)
class Died:
    """The child ended without a result.

    Args:
        code: ``crashed`` or ``timeout``.
        reason: how, in words.
        at: the last thing that it told, or None.
    """

    code: str
    reason: str
    at: Any = None


def run(work: Callable[[Tell], Any], silence: float = SILENCE) -> Union[Any, Died]:
    """Return what ``work`` returns, as JSON data; or how its process ended.

    Args:
        work: must not raise; it is given a function that reports progress.
        silence: most seconds without a report.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(work, theirs), daemon=True)
    child.start()
    theirs.close()  # so that the end of the child is the end of the pipe
    at: Any = None
    try:
        while ours.poll(silence):
            kind, value = json.loads(ours.recv_bytes())
            if kind == "result":
                return value
            at = value
        return Died("timeout", f"no sign of life for {silence:g} s", at)
    except EOFError:
        child.join()
        return Died("crashed", _ending(child.exitcode), at)
    finally:
        child.kill()
        child.join()
        ours.close()


def _serve(work: Callable[[Tell], Any], answers: Connection) -> None:
    def send(kind: str, value: Any) -> None:
        answers.send_bytes(json.dumps([kind, value], allow_nan=False).encode())

    send("result", work(lambda value: send("at", value)))


def _ending(code: Any) -> str:
    if code is not None and code < 0:
        try:
            return f"its process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"its process was ended by signal {-code}"
    return f"its process ended with code {code}"
