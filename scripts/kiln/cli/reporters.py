"""Show progress to people and, with ``--json``, to programs."""

from __future__ import annotations

import json
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kiln.core.plain_text import plain

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Phases of an image's build, between its first line and its last.
_BUILDING = ("fetch", "build", "seal")

_LINE_END = "\n"


class JsonReporter:
    """One JSON object per line on standard output, flushed at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> JsonReporter:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def event(self, event: str, **fields: Any) -> None:
        """Print one event."""
        with self._lock:
            print(json.dumps({"event": event, **fields}, sort_keys=True), flush=True)


class TextReporter:
    """Lines on standard error, and live bars when that is a terminal.

    Lines report what ended, with the time since the start: one for each stage, two for an image
    build. Bars show bytes and the current step of running work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._bytes: dict[str, tuple[int, int | None]] = {}
        self._last = 0.0

    def __enter__(self) -> TextReporter:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def event(self, event: str, **fields: Any) -> None:
        """Show one event."""
        with self._lock:
            getattr(self, f"_on_{event}", self._ignore)(**fields)

    def _ignore(self, **_: Any) -> None:
        return None

    def _line(self, text: str) -> None:
        # Names and messages may be untrusted.
        stamp = f"[{time.monotonic() - self._start:6.1f}s] {plain(text, keep=_LINE_END)}"
        if self._progress is not None:
            self._progress.console.print(stamp, highlight=False, markup=False)
        else:
            print(stamp, file=sys.stderr, flush=True)

    def _bar(self, name: str, detail: str, done: float | None = None) -> None:
        if self._progress is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, detail=detail)
        total, detail = 1.0 if done is not None else None, plain(detail)
        self._progress.update(self._tasks[name], detail=detail, completed=done or 0, total=total)

    def _end_bar(self, name: str) -> None:
        if self._progress is not None and name in self._tasks:
            self._progress.remove_task(self._tasks.pop(name))

    def _on_download(self, name: str, done: int, total: int | None) -> None:
        self._bytes[name] = (done, total)
        have = sum(item[0] for item in self._bytes.values())
        open_ = [key for key, (got, size) in self._bytes.items() if size is None or got < size]
        if self._progress is not None:
            if open_:
                short = open_[0] if len(open_[0]) < 34 else open_[0][:31] + "..."
                self._bar("downloading", f"{have / 1e6:.1f} MB, {len(open_)} open: {short}")
            else:
                self._end_bar("downloading")
        elif open_ and time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            self._line(f"downloading: {have / 1e6:.1f} MB, {len(open_)} files open")

    def _on_bundle(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._bar("bundle", f"{what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", done / total)
        elif time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            self._line(f"{what} the bundle: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    def _on_image(
        self,
        image: str,
        phase: str,
        detail: str,
        seconds: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if phase == "done":
            self._end_bar(f"image {image}")
            took = f" in {sum(seconds.values()):.1f} s" if seconds else ""
            self._line(f"image {image}: sealed as {detail}{took}")
        elif self._progress is None and phase in _BUILDING:
            if phase == _BUILDING[0]:
                self._line(f"image {image}: building ...")
        else:
            if phase != "build" or detail == "starting":
                self._line(f"image {image}: {phase}, {detail}")
            self._bar(f"image {image}", f"{phase}: {detail[:60]}")

    def _on_stage(self, model: str, id: str, state: str, **fields: Any) -> None:
        if state == "progress":
            done, total = fields.get("done"), fields.get("total")
            share = done / total if isinstance(done, int) and total else None
            self._bar(model, f"{id}: {fields.get('message', '')}", share)
        elif state == "finished":
            peak = fields.get("peak_rss", 0) / 2**20
            memory = f", peak {peak:.0f} MiB" if peak else ""
            where = f", on {fields['worker']}" if "worker" in fields else ""
            self._line(f"{model}: {id} in {fields['seconds']:.1f} s{memory}{where}")
            self._bar(model, id)
        elif state == "started":
            self._bar(model, id)
        elif state == "warning":
            self._line(f"{model}: {id}: warning: {fields.get('message', '')}")

    def _on_model(self, model: str, **_: Any) -> None:
        self._end_bar(model)

    def _on_worker(self, name: str, scheduler: str, models: int, images: list[str]) -> None:
        count = "one model" if models == 1 else f"{models} models"
        self._line(f"{name}: works for {scheduler}, {count} at a time, with {', '.join(images)}")

    def _on_verdict(self, model: str, variant: str, verdict: str, **_: Any) -> None:
        self._line(f"{model}: {variant}: {verdict}")

    def _on_note(self, message: str) -> None:
        self._line(message)

    def _on_failed(self, model: str, kind: str, message: str, remedy: str) -> None:
        self._end_bar(model)
        self._line(f"FAILED {model}: {message}")
        if remedy:
            self._line(f"       {remedy}")
