"""Read a running container's messages: JSON-lines events, treated as an untrusted protocol.

The code inside may be untrusted. Each line is bounded; each event is one of five, with exactly its
own fields, about a requested stage; the first violation ends the container. Text is made safe to
display here, once, for all users of the events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kiln.core.plain_text import plain, shortened
from kiln.core.untrusted import MalformedError, parse_json_object

#: Bounds of one container's events. Our longest line names some 300 variables, 30 kB; our most
#: verbose stage reports progress a few hundred times.
MAX_LINE = 256 << 10
MAX_EVENTS = 100_000
_MAX_DEPTH = 4

#: Characters of a message that are passed on.
MAX_TEXT = 32 << 10

_TEXT, _COUNT, _SECONDS = "a text", "a whole number", "a number of seconds"

#: Event -> its fields; each event has exactly these, besides ``event`` and ``stage``.
_EVENTS: Mapping[str, Mapping[str, str]] = {
    "started": {},
    "progress": {"done": _COUNT, "total": _COUNT, "message": _TEXT},
    "warning": {"message": _TEXT},
    "finished": {"seconds": _SECONDS, "peak_rss": _COUNT},
    "failed": {"kind": _TEXT, "message": _TEXT, "remedy": _TEXT},
}


#: The failures that a stage may report (``KINDS`` in its own code). Later stage code may have more,
#: but not failures of the driver (no engine, an invalid signature).
REPORTABLE = frozenset(
    {
        "unsupported-model",
        "checkpoint",
        "label-map",
        "image-set",
        "compiler",
        "stage-failed",
        "stage-out-of-memory",
        "disk-full",
    }
)


class ProtocolError(Exception):
    """The container sent something that is not an event; ``stage`` is the last one begun."""

    def __init__(self, stage: str, what: str) -> None:
        super().__init__(what)
        self.stage = stage
        self.what = what


@dataclass(frozen=True)
class StageEvent:
    """One event: ``kind`` is ``started``, ``progress``, ``warning``, ``finished`` or ``failed``.

    ``stage`` is the id of a requested stage; "" only if a request failed as a whole.
    """

    kind: str
    stage: str
    fields: Mapping[str, Any]


class EventReader:
    """Reassembles events from chunks of standard output.

    Args:
        stages: the ids of the requested stages.
        on_event: receives each event; none about a stage that has ended.
    """

    def __init__(self, stages: Collection[str], on_event: Callable[[StageEvent], None]) -> None:
        self._stages = frozenset(stages)
        self._on_event = on_event
        self._rest = bytearray()
        self._count = 0
        self._current = ""
        self._ended: set[str] = set()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            ProtocolError: they are not events; earlier events were passed on.
        """
        self._rest += chunk
        *lines, rest = self._rest.split(b"\n")
        for line in lines:
            self._on_line(bytes(line))
        self._rest = bytearray(rest)
        if len(self._rest) > MAX_LINE:
            raise self._wrong(f"wrote a line of more than {MAX_LINE:,} bytes")

    def _on_line(self, line: bytes) -> None:
        self._count += 1
        if self._count > MAX_EVENTS:
            raise self._wrong(f"reported more than {MAX_EVENTS:,} events")
        try:
            event = parse_json_object(line, size=MAX_LINE, depth=_MAX_DEPTH)
        except MalformedError as error:
            said = shortened(plain(line.decode("utf-8", "replace")), 80)
            raise self._wrong(f"wrote a line that {error}: {said!r}") from None
        self._on_event(self._checked(event))

    def _checked(self, event: dict[str, Any]) -> StageEvent:
        kind, stage = event.pop("event", None), event.pop("stage", None)
        if not isinstance(kind, str) or kind not in _EVENTS:
            raise self._wrong(f"reported an event {_named(kind)}, which does not exist")
        # An unreadable request fails before any stage begins.
        if not isinstance(stage, str) or (
            stage not in self._stages and (kind, stage) != ("failed", "")
        ):
            raise self._wrong(f"reported about a stage {_named(stage)} that was not asked for")
        if stage in self._ended:
            raise self._wrong(f"reported about {stage} after it had ended")
        self._current = stage or self._current
        fields = _EVENTS[kind]
        if event.keys() != fields.keys():
            odd = sorted(event.keys() ^ fields.keys())
            raise self._wrong(
                f"reported '{kind}' with a missing or unknown field: {_named(odd[0])}"
            )
        for name, wanted in fields.items():
            if not _is(event[name], wanted):
                raise self._wrong(f"reported '{kind}' whose {name} is not {wanted}")
        if kind in ("finished", "failed"):
            self._ended.add(stage)
        shown = {
            name: shortened(plain(value, keep="\n"), MAX_TEXT) if isinstance(value, str) else value
            for name, value in event.items()
        }
        return StageEvent(kind, stage, shown)

    def _wrong(self, what: str) -> ProtocolError:
        return ProtocolError(self._current, what)


def _is(value: Any, wanted: str) -> bool:
    if wanted == _TEXT:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if wanted == _COUNT:
        return isinstance(value, int) and 0 <= value < 1 << 53
    return 0 <= value < 1e9  # NaN is neither; whole numbers may be larger than any float


def _named(value: Any) -> str:
    return shortened(plain(repr(value)), 60)
