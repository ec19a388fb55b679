"""kiln.running.stage_events: what a container says is read as a network protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiln.running import stage_events
from kiln.running.stage_events import EventReader, ProtocolError, StageEvent


def reader(found: list[StageEvent]) -> EventReader:
    return EventReader(["export", "convert"], found.append)


def line(event: str, stage: Any = "export", **fields: Any) -> bytes:
    return json.dumps({"event": event, "stage": stage, **fields}).encode() + b"\n"


WHOLE = [
    line("started"),
    line("progress", done=1, total=3, message="tracing"),
    line("warning", message="odd"),
    line("finished", seconds=1.5, peak_rss=7),
    line("started", "convert"),
    line("failed", "convert", kind="checkpoint", message="Broken.", remedy=""),
]


@given(st.data())
def test_events_are_put_together_whatever_the_pieces(data: st.DataObject) -> None:
    text, found = b"".join(WHOLE), list[StageEvent]()
    events = reader(found)
    while text:
        size = data.draw(st.integers(1, len(text)))
        events.feed(text[:size])
        text = text[size:]
    assert [event.kind for event in found] == [json.loads(one)["event"] for one in WHOLE]
    assert found[1].fields == {"done": 1, "total": 3, "message": "tracing"}
    assert (found[3].stage, found[3].fields) == ("export", {"seconds": 1.5, "peak_rss": 7})


def test_a_request_that_fails_as_a_whole() -> None:
    found: list[StageEvent] = []
    reader(found).feed(line("failed", "", kind="stage-failed", message="no request", remedy=""))
    assert found[0].stage == ""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"plain words\n", "not valid JSON.*plain words"),
        (b"\n", "not valid JSON"),
        (b"[1, 2]\n", "not a JSON object"),
        (b"null\n", "not a JSON object"),
        (b'{"cut\n', "not valid JSON"),
        (b"\xff\xfe\n", "not valid JSON"),
        (b'{"a":' * 50 + b"1" + b"}" * 50 + b"\n", "deeper than 4"),
        (b"[" * 100_000 + b"\n", "deeper than 4"),
        (b'{"event": "started", "event": "failed", "stage": "export"}\n', "twice"),
        (line("born"), "'born', which does not exist"),
        (line("started", None), "a stage None"),
        (line("started", ["export"]), r"\['export'\]"),
        (line("started", {"a": 1}), "was not asked for"),
        (line("started", "other"), "'other' that was not asked for"),
        (line("started", ""), "'' that was not asked for"),
        (line("finished", peak_rss=1), "missing or unknown field.*seconds"),
        (line("finished", seconds="1", peak_rss=1), "seconds is not"),
        (line("finished", seconds=True, peak_rss=1), "seconds is not"),
        (line("finished", seconds=-1, peak_rss=1), "seconds is not"),
        (line("finished", seconds=1e300, peak_rss=1), "seconds is not"),
        (line("finished", seconds=10**400, peak_rss=1), "seconds is not"),
        (b'{"event":"finished","stage":"export","seconds":NaN,"peak_rss":1}\n', "NaN"),
        (line("finished", seconds=1, peak_rss=1.5), "peak_rss is not"),
        (line("finished", seconds=1, peak_rss=1 << 70), "peak_rss is not"),
        (line("started", model="another"), "missing or unknown field.*model"),
        (line("started", state="finished"), "missing or unknown field.*state"),
        (line("started", self=1), "missing or unknown field.*self"),
        (line("warning", message=["x"]), "message is not a text"),
        (line("progress", done="1", total=2, message=""), "done is not"),
        (line("failed", kind=None, message="", remedy=""), "kind is not"),
        (b"x" * (stage_events.MAX_LINE + 1), "a line of more than"),
        (line("warning", message="x" * stage_events.MAX_LINE), "larger than"),
        (line("finished", seconds=1, peak_rss=1) + line("started"), "after it had ended"),
        (line("finished", seconds=1, peak_rss=1) * 2, "after it had ended"),
    ],
)
def test_anything_else_is_an_error_of_the_stage(said: bytes, words: str) -> None:
    found: list[StageEvent] = []
    with pytest.raises(ProtocolError, match=words):
        reader(found).feed(said)
    assert len(found) <= 1


def test_too_many_events() -> None:
    events = reader([])
    for _ in range(stage_events.MAX_EVENTS // 1000):
        events.feed(line("started") * 1000)
    with pytest.raises(ProtocolError, match="more than 100,000 events"):
        events.feed(line("started"))


@given(st.binary(max_size=300))
def test_any_bytes_are_events_or_an_error(data: bytes) -> None:
    try:
        reader([]).feed(data)
    except ProtocolError as error:
        assert error.what.isprintable()


@given(st.text(max_size=60))
def test_text_cannot_steer_who_shows_it(text: str) -> None:
    found: list[StageEvent] = []
    reader(found).feed(line("warning", message=text + "\x1b[2J\u202e"))
    shown = found[0].fields["message"]
    assert not {"\x1b", "\u202e", "\r", "\x07", "\u2066"} & set(shown)
    if text.isascii() and text.isprintable():
        assert shown == text + "\\x1b[2J\\u202e"


def test_what_a_stage_may_report_is_what_its_code_knows() -> None:
    from stages.protocol.failures import KINDS

    assert stage_events.REPORTABLE == KINDS
