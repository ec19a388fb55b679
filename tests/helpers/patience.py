"""Waiting for what must happen, on a machine of which nobody knows how busy it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which something never happens. It says nothing about how soon it has to: a test
#: that asks for "soon" counts events or processor time.
PATIENCE = 300.0


def wait_until(what: Callable[[], T], timeout: float = PATIENCE, pause: float = 0.05) -> T:
    """Wait until ``what()`` is true and return it; an error after ``timeout`` seconds."""
    until = time.monotonic() + timeout
    while not (value := what()):
        assert time.monotonic() < until, f"nothing after {timeout:.0f} s"
        time.sleep(pause)
    return value
