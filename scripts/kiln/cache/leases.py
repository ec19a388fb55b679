"""Keep two kilns that share a cache from making the same plan at the same time.

A lease is an object that its owner writes again at intervals. A reader takes it for abandoned if it
has not *changed* for some time by the reader's own clock, so clocks need not agree. There are
moments in which two kilns can both hold one: then both do the work, and no more is lost.
"""

from __future__ import annotations

import json
import platform
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kiln.cache.calls import AbsentError, Calls
from kiln.cache.objects import Objects
from kiln.core.errors import CacheError
from kiln.core.plain_text import plain, shortened
from kiln.core.untrusted import MalformedError, parse_json_object

_MOST_BYTES = 4096


@dataclass(frozen=True)
class Times:
    """Seconds between an owner's signs of life, between a reader's looks, without a change until a
    lease counts as abandoned, and of waiting for a living owner at most."""

    beat: float = 15.0
    look: float = 3.0
    abandoned: float = 60.0
    longest: float = 2 * 3600.0


class Lease:
    """A lease of this process, kept alive by a thread until :meth:`release`."""

    def __init__(self, objects: Objects, name: str, calls: Calls, times: Times) -> None:
        self._objects, self._name, self._calls, self._times = objects, name, calls, times
        self._owner = secrets.token_hex(16)
        self._beats = 0
        self._ended = threading.Event()

    def take(self) -> bool:
        """Whether the lease could be taken: nobody else has it.

        Raises:
            CacheError: the cache failed.
        """
        data = self._data()

        def create() -> bool:
            try:
                self._objects.create(self._name, data)
            except FileExistsError:
                return False
            return True

        if not self._calls.one(create):
            return False
        threading.Thread(target=self._keep_alive, name="lease", daemon=True).start()
        return True

    def release(self, seconds: float | None = None) -> None:
        """Give the lease up, within ``seconds``; failures are left to its expiry."""
        self._ended.set()

        def remove() -> None:
            if self._is_ours():
                self._objects.remove(self._name)

        try:
            self._calls.one(remove, seconds)
        except CacheError:
            return

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._times.beat):
            try:
                if not self._calls.one(self._beat):
                    return  # taken over by someone who took us for dead
            except CacheError:
                if self._calls.aside:
                    return

    def _beat(self) -> bool:
        if not self._is_ours():
            return False
        self._beats += 1
        if not self._ended.is_set():
            self._objects.write(self._name, self._data())
        return True

    def _is_ours(self) -> bool:
        try:
            data = self._objects.read(self._name, 0, _MOST_BYTES)
        except FileNotFoundError:
            return False
        return _said(data, "owner") == self._owner

    def _data(self) -> bytes:
        said = {"owner": self._owner, "machine": platform.node(), "beats": self._beats}
        return json.dumps(said).encode()


def wait_for(
    objects: Objects, name: str, calls: Calls, times: Times, on_wait: Callable[[str], object]
) -> bool:
    """Wait until another's lease has ended; return whether it has.

    Args:
        on_wait: called about twice a second with the name of the other's machine; may raise.

    Raises:
        CacheError: the cache failed.
    """
    seen, since = b"", time.monotonic()
    until = since + times.longest
    while time.monotonic() < until:
        try:
            data = calls.one(lambda: objects.read(name, 0, _MOST_BYTES))
        except AbsentError:
            return True
        if data != seen:
            seen, since = data, time.monotonic()
        elif time.monotonic() - since > times.abandoned:
            calls.one(lambda: objects.remove(name))
            return True
        machine = _said(data, "machine")
        look = time.monotonic() + times.look
        while time.monotonic() < look:
            on_wait(shortened(plain(machine), 80) if machine else "another machine")
            time.sleep(min(0.5, times.look))
    return False


def _said(data: bytes, name: str) -> str:
    """Return what a lease says; "" where it says nothing. Anybody may have written it."""
    try:
        value = parse_json_object(data, size=_MOST_BYTES).get(name)
    except MalformedError:
        return ""
    return value if isinstance(value, str) else ""
