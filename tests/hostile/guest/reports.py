"""``result.json`` and standard output, as no honest stage writes them."""

import json
import os
import random
import time

from stages.plain import OUT, finish, folder, ours, report, say, speak, write_report

NOTHING = object()


def _file(seed: int) -> None:
    (folder() / "model.tflite").write_bytes(ours(random.Random(seed)))


def odd_report(kind: str, seed: int) -> int:
    """A ``result.json`` that is not what it has to be."""
    say("started")
    _file(seed)
    deep = 100_000
    odd = {
        "empty": b"",
        "no-json": b"once upon a time",
        "cut": json.dumps(report()).encode()[:-9],
        "list": b"[]",
        "null": b"null",
        "number": b"5",
        "string": b'"x"',
        "deep-list": b"[" * deep + b"]" * deep,
        "deep-object": b'{"a":' * deep + b"1" + b"}" * deep,
        "deep-facts": json.dumps(report()).encode().replace(b'"guest"', b"[" * 900 + b"]" * 900),
        "very-deep-facts": json.dumps(report())
        .encode()
        .replace(b'"guest"', b"[" * deep + b"]" * deep),
        "nan": json.dumps(report(seconds=float("nan"))).encode(),
        "infinite": json.dumps(report(seconds=float("inf"))).encode(),
        "minus-infinite": json.dumps(report(seconds=float("-inf"))).encode(),
        "negative": json.dumps(report(seconds=-5.0, peak_rss=-5)).encode(),
        "huge-float": json.dumps(report()).encode().replace(b"0.1", b"1e999"),
        "huge-seconds": json.dumps(report(seconds=10**400)).encode(),
        "huge-integer": json.dumps(report(peak_rss=10**400)).encode(),
        "many-digits": json.dumps(report()).encode().replace(b"0.1", b"9" * 5000),
        "million-digits": json.dumps(report()).encode().replace(b"0.1", b"9" * 1_000_000),
        "true": json.dumps(report(seconds=True, peak_rss=True)).encode(),
        "words": json.dumps(report(seconds="1", peak_rss="1")).encode(),
        "facts-list": json.dumps(report(facts=[1])).encode(),
        "facts-null": json.dumps(report(facts=None)).encode(),
        "facts-nan": json.dumps(report(facts={"x": float("nan")})).encode(),
        "facts-surrogate": json.dumps(report(facts={"x": "\ud800"})).encode(),
        "facts-surrogate-key": json.dumps(report(facts={"\udfff": 1})).encode(),
        "facts-control": json.dumps(report(facts={"\x1b[2J": "\u202e\x00"})).encode(),
        "facts-untrained": json.dumps(report(facts={"untrained": 5})).encode(),
        "facts-many": json.dumps(report(facts={f"k{i}": i for i in range(200_000)})).encode(),
        "facts-long": json.dumps(report(facts={"x": "x" * 30_000_000})).encode(),
        "twice": b'{"facts": {}, "facts": {"a": 1}, "seconds": 1, "peak_rss": 1}',
        "latin-1": b'{"facts": {"a": "\xe9"}, "seconds": 1, "peak_rss": 1}',
        "utf-16": json.dumps(report()).encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + json.dumps(report()).encode(),
        "nul": json.dumps(report()).encode() + b"\0" * 1000,
        "more": json.dumps(report()).encode() + b"{}",
        "extra": json.dumps(report(files={"a": "/etc/passwd"}, key="0" * 64)).encode(),
    }
    if kind.startswith("without-"):
        left = report()
        del left[kind.partition("-")[2]]
        write_report(json.dumps(left).encode())
    elif kind == "none":
        folder()
    else:
        write_report(odd[kind])
    finish()
    return 0


def odd_events(kind: str, seed: int) -> int:
    """Events that are not what they have to be; before a sound end where there is one."""
    rng = random.Random(seed)
    say("started")
    _file(seed)
    write_report()
    one = {
        "finished-without-seconds": {"event": "finished", "stage": "work"},
        "extra-model": {"event": "progress", "stage": "work", "done": 1, "total": 2, "model": "x"},
        "extra-state": {"event": "progress", "stage": "work", "done": 1, "total": 2, "state": "x"},
        "extra-self": {"event": "progress", "stage": "work", "done": 1, "total": 2, "self": "x"},
        "extra-id": {"event": "progress", "stage": "work", "done": 1, "total": 2, "id": "x"},
        "extra-event": {"event": "warning", "stage": "work", "message": "x", "name": "y",
                        "args": 1},
        "stage-list": {"event": "finished", "stage": ["work"], "seconds": 1, "peak_rss": 1},
        "stage-null": {"event": "finished", "stage": None, "seconds": 1, "peak_rss": 1},
        "stage-object": {"event": "started", "stage": {"a": 1}},
        "stage-number": {"event": "finished", "stage": 5, "seconds": 1, "peak_rss": 1},
        "stage-missing": {"event": "finished", "seconds": 1, "peak_rss": 1},
        "stage-unknown": {"event": "finished", "stage": "other", "seconds": 1, "peak_rss": 1},
        "stage-path": {"event": "finished", "stage": "../in", "seconds": 1, "peak_rss": 1},
        "stage-absolute": {"event": "finished", "stage": "/etc", "seconds": 1, "peak_rss": 1},
        "stage-empty": {"event": "finished", "stage": "", "seconds": 1, "peak_rss": 1},
        "event-null": {"event": None, "stage": "work"},
        "event-list": {"event": ["finished"], "stage": "work"},
        "event-object": {"event": {}, "stage": "work"},
        "event-unknown": {"event": "rm -rf", "stage": "work"},
        "event-missing": {"stage": "work"},
        "kind-null": {"event": "failed", "stage": "work", "kind": None,
                      "message": "m", "remedy": "r"},
        "kind-list": {"event": "failed", "stage": "work", "kind": [],
                      "message": "m", "remedy": "r"},
        "kind-odd": {"event": "failed", "stage": "work", "kind": "verification", "message": "m",
                     "remedy": "r"},
        "kind-missing": {"event": "failed", "stage": "work"},
        "message-object": {"event": "failed", "stage": "work", "kind": "stage-failed",
                           "message": {"a": [1]}, "remedy": 5},
        "message-null": {"event": "warning", "stage": "work", "message": None},
        "message-missing": {"event": "warning", "stage": "work"},
        "message-long": {"event": "warning", "stage": "work", "message": "x" * 5_000_000},
        "message-escapes": {"event": "warning", "stage": "work",
                            "message": "\x1b[2J\x1b]0;title\x07\x9b31m\r\nkiln: done\x00"},
        "message-bidi": {"event": "warning", "stage": "work",
                         "message": "\u202e\u2066\u2069\u200f\u061c end"},
        "message-surrogate": {"event": "warning", "stage": "work", "message": "\ud800"},
        "failed-escapes": {"event": "failed", "stage": "work", "kind": "checkpoint",
                           "message": "\x1b[31m\u202ered\x00\x85\x9b", "remedy": "\x1b[2J\r\nrm"},
        "failed-markup": {"event": "failed", "stage": "work", "kind": "checkpoint",
                          "message": "[bold]x[/bold] [link=http://example.com]y[/]",
                          "remedy": "[/]"},
        "failed-long": {"event": "failed", "stage": "work", "kind": "checkpoint",
                        "message": "m" * 3_000_000, "remedy": "r" * 3_000_000},
        "progress-words": {"event": "progress", "stage": "work", "done": "1", "total": "many",
                           "message": 5},
        "progress-missing": {"event": "progress", "stage": "work"},
        "progress-zero": {"event": "progress", "stage": "work", "done": 0, "total": 0},
        "progress-negative": {"event": "progress", "stage": "work", "done": -5, "total": -1},
        "progress-nan": {"event": "progress", "stage": "work", "done": float("nan"),
                         "total": float("inf")},
        "progress-huge": {"event": "progress", "stage": "work", "done": 10**400, "total": 1},
        "seconds-null": {"event": "finished", "stage": "work", "seconds": None, "peak_rss": None},
        "seconds-words": {"event": "finished", "stage": "work", "seconds": "1", "peak_rss": []},
        "seconds-nan": {"event": "finished", "stage": "work", "seconds": float("nan"),
                        "peak_rss": 1},
        "seconds-huge": {"event": "finished", "stage": "work", "seconds": 10**400, "peak_rss": 1},
        "cached": {"event": "cached", "stage": "work"},
        "empty": {},
    }  # fmt: skip
    deep = 100_000
    lines = {
        "deep-list": b'{"event": "progress", "x": ' + b"[" * deep + b"]" * deep + b"}",
        "deep-only": b"[" * deep + b"]" * deep,
        "deep-object": b'{"a":' * deep + b"1" + b"}" * deep,
        "many-digits": b'{"event": "progress", "stage": "work", "done": ' + b"9" * 5000 + b"}",
        "latin-1": b'{"event": "warning", "stage": "work", "message": "\xe9\xff"}',
        "nul": b'\0{"event": "warning"}\0',
        "twice": b'{"event": "started", "event": "finished", "stage": "work", "seconds": 1}',
        "list": b'["finished", "work"]',
        "bare": b"finished",
        "carriage": b'{"event": "warning", "stage": "work", "message": "x"}\r',
        "blank": b"\n\n \n\t\n",
        "noise": rng.randbytes(100_000),
        "lines-of-noise": b"\n".join(rng.randbytes(20) for _ in range(20_000)),
    }
    if kind in one:
        speak(json.dumps(one[kind]).encode() + b"\n")
    else:
        speak(lines[kind] + b"\n")
    finish()
    return 0


def flood(kind: str, seed: int, count: int = 1_000_000) -> int:
    """A great deal of output."""
    say("started")
    _file(seed)
    write_report()
    line = (
        json.dumps({"event": "progress", "stage": "work", "done": 1, "total": 2}).encode() + b"\n"
    )
    if kind == "line":
        for _ in range(100):
            speak(b"x" * (1 << 20))
        speak(b"\n")
    elif kind == "line-without-end":
        for _ in range(100):
            speak(b"x" * (1 << 20))
    elif kind == "object":
        speak(b'{"event": "warning", "stage": "work", "message": "')
        for _ in range(100):
            speak(b"x" * (1 << 20))
        speak(b'"}\n')
    elif kind == "started":
        batch = json.dumps({"event": "started", "stage": "work"}).encode() + b"\n"
        for _ in range(count // 1000):
            speak(batch * 1000)
    elif kind == "finished":
        end = json.dumps({"event": "finished", "stage": "work", "seconds": 1, "peak_rss": 1})
        speak((end.encode() + b"\n") * 2000)
    elif kind == "stderr":
        for _ in range(200):
            os.write(2, b"\x1b[31mlog\x00\xff\n" * 50_000)
    elif kind == "warnings":
        one = json.dumps({"event": "warning", "stage": "work", "message": "w" * 500}).encode()
        for _ in range(count // 10_000):
            speak((one + b"\n") * 1000)
    elif kind == "bytes":
        for byte in line * 200:
            os.write(1, bytes([byte]))
    elif kind == "endless":
        while True:
            speak(line * 1000)
    else:
        for _ in range(count // 1000):
            speak(line * 1000)
    finish()
    return 0


def orders(kind: str, seed: int) -> int:
    """Events in an order that makes no sense."""
    _file(seed)
    if kind == "early":
        finish()
        time.sleep(0.3)
        write_report()
        finish()
    elif kind == "twice":
        write_report()
        finish()
        (folder() / "model.tflite").write_bytes(ours(random.Random(seed + 1)))
        finish()
    elif kind == "failed-then-finished":
        write_report()
        say("failed", kind="checkpoint", message="no", remedy="none")
        finish()
    elif kind == "finished-then-failed":
        write_report()
        finish()
        say("failed", kind="checkpoint", message="no", remedy="none")
    elif kind == "silent":
        write_report()
    elif kind == "nothing":
        (OUT / "work" / "files" / "model.tflite").unlink()
    elif kind == "half-line":
        write_report()
        speak(b'{"event": "finished", "stage": "work", "sec')
        return 0
    elif kind == "no-newline":
        write_report()
        speak(b'{"event": "finished", "stage": "work", "seconds": 1, "peak_rss": 1}')
    return 0
