"""The reader of a command's events that the integration and the hostile tests share."""

from __future__ import annotations

import subprocess
import sys
import time

from event_reader import EventReader

SAYS = """
import sys
print('{"event": "stage", "id": "a", "state": "started"}', flush=True)
sys.stdin.readline()
print('{"event": "stage", "id": "a", "state": "finished"}', flush=True)
print("a word", file=sys.stderr)
print('{"event": "sta', end="", flush=True)
"""


def test_events_as_they_come() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", SAYS], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        reader = EventReader(process)
        assert reader.wait_for(60, id="a") == {"event": "stage", "id": "a", "state": "started"}
        assert reader.wait_for(0.05, state="finished") is None  # the time is up
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert reader.wait_for(60, id="a", state="finished") is not None
        begin = time.monotonic()
        assert reader.wait_for(60, state="failed") is None  # the end came before
        assert time.monotonic() - begin < 30
        assert process.wait(60) == 0
    assert reader.finish() == "a word\n"
    assert [event["state"] for event in reader.events] == ["started", "finished"]
