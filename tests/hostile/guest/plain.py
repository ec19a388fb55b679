"""What all of them do: speak the protocol, and mark what they write as theirs."""

import json
import os
import random
from pathlib import Path
from typing import Any, Optional

OUT = Path("/out")
#: Whatever a guest writes into a file begins with this, so that anything else came from outside.
MARK = b"guest:"


def say(event: str, stage: Any = "work", **fields: Any) -> None:
    """One event, as the protocol has it unless told otherwise."""
    line = json.dumps({"event": event, "stage": stage, **fields})
    speak(line.encode() + b"\n")


def speak(data: bytes) -> None:
    """Bytes on standard output."""
    while data:
        data = data[os.write(1, data) :]


def ours(rng: random.Random, size: int = 64) -> bytes:
    """A content of our own."""
    return MARK + rng.randbytes(size)


def folder(step: str = "work") -> Path:
    """The step's folder of files, made."""
    files = OUT / step / "files"
    files.mkdir(parents=True, exist_ok=True)
    return files


def report(step: str = "work", **other: Any) -> dict[str, Any]:
    """A sound ``result.json``."""
    return {"status": "ok", "facts": {"mark": "guest"}, "seconds": 0.1, "peak_rss": 1, **other}


def write_report(data: Optional[bytes] = None, step: str = "work") -> None:
    """``result.json``, whole."""
    place = OUT / step
    place.mkdir(parents=True, exist_ok=True)
    (place / "part").write_bytes(json.dumps(report()).encode() if data is None else data)
    (place / "part").rename(place / "result.json")


def finish(step: str = "work") -> None:
    """Say that all is done."""
    say("finished", step, seconds=0.1, peak_rss=1)


def well_behaved(seed: int, count: int = 3, size: int = 2000) -> int:
    """What an honest stage does."""
    rng = random.Random(seed)
    say("started")
    files = folder()
    for number in range(count):
        (files / f"file-{number}").write_bytes(ours(rng, size))
    write_report()
    finish()
    return 0
