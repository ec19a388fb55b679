"""Collect a build's times from its events, and print them as tables."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from kiln.core.output import table

_PHASES = ("fetch", "build", "seal")


class Timings:
    """Seconds by phase of each image and by stage of each model.

    Args:
        clock: seconds that only ever grow (:func:`time.monotonic`).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._images: dict[str, dict[str, float]] = {}
        self._stages: dict[str, dict[str, float]] = {}
        self._spans: dict[str, tuple[float, float]] = {}

    def event(self, event: str, **fields: Any) -> None:
        """Record an event; most kinds have no time."""
        now = self._clock()
        with self._lock:
            if event == "image" and fields["phase"] == "done":
                self._images[fields["image"]] = fields.get("seconds", {})
            elif event == "stage" and fields["state"] in ("started", "finished"):
                model = fields["model"]
                begun, _ = self._spans.get(model, (now, now))
                self._spans[model] = (begun, now)
                if fields["state"] == "finished":
                    # `convert-int8` and `convert-float32` are one column.
                    stage = str(fields["id"]).split("-")[0]
                    spent = self._stages.setdefault(model, {})
                    spent[stage] = spent.get(stage, 0.0) + fields["seconds"]

    def report(self) -> str:
        """Return the tables, or an empty text where nothing ran.

        A model's ``wall`` is the time from its first stage's start to its last one's end: models
        run in parallel with ``--jobs``, and stages only wait for each other.
        """
        with self._lock:
            parts = []
            if self._images:
                rows = [
                    [name, *(_shown(spent.get(phase)) for phase in _PHASES), _total(spent)]
                    for name, spent in self._images.items()
                ]
                parts.append(table(["image built, s", *_PHASES, "all"], rows))
            if self._stages:
                names = list(
                    dict.fromkeys(name for spent in self._stages.values() for name in spent)
                )
                rows = []
                for model, spent in self._stages.items():
                    begun, ended = self._spans[model]
                    cells = [_shown(spent.get(name)) for name in names]
                    rows.append([model, *cells, _shown(ended - begun)])
                parts.append(table(["stages run, s", *names, "wall"], rows))
            return "\n\n".join(parts)


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


def _total(spent: dict[str, float]) -> str:
    return _shown(sum(spent.values()))
