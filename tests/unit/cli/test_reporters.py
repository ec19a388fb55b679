from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import SCRIPTS

from kiln.cli.reporters import JsonReporter, TextReporter
from kiln.core.output import table

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("download", {"name": "a.whl", "done": 10, "total": None}),
    ("download", {"name": "a.whl", "done": 20, "total": 20}),
    ("image", {"image": "base", "phase": "fetch", "detail": "packages"}),
    ("image", {"image": "base", "phase": "build", "detail": "starting"}),
    ("image", {"image": "base", "phase": "build", "detail": "Step 1/2 : FROM scratch"}),
    ("image", {"image": "base", "phase": "build", "detail": "Step 2/2 : COPY a b"}),
    ("image", {"image": "base", "phase": "seal", "detail": "one canonical layer"}),
    (
        "image",
        {
            "image": "base",
            "phase": "done",
            "detail": "sha256:00",
            "seconds": {"fetch": 0.5, "build": 20.0, "seal": 2.1},
        },
    ),
    ("image", {"image": "odapi", "phase": "pull", "detail": "registry.example/odapi"}),
    ("image", {"image": "odapi", "phase": "done", "detail": "sha256:01"}),
    ("bundle", {"what": "writing", "done": 1 << 20, "total": 1 << 30}),
    ("stage", {"model": "m", "id": "export", "state": "cached"}),
    ("stage", {"model": "m", "id": "export", "state": "started"}),
    (
        "stage",
        {"model": "m", "id": "export", "state": "progress", "done": 1, "total": 3, "message": "x"},
    ),
    ("stage", {"model": "m", "id": "export", "state": "progress", "done": 0, "total": 0}),
    ("stage", {"model": "m", "id": "export", "state": "warning", "message": "[red]odd[/]"}),
    (
        "stage",
        {"model": "m", "id": "export", "state": "finished", "seconds": 1.25, "peak_rss": 3 << 20},
    ),
    ("stage", {"model": "m", "id": "export", "state": "of a later version"}),
    ("note", {"message": "a note"}),
    ("failed", {"model": "m", "kind": "archive", "message": "It broke.", "remedy": "Mend it."}),
    ("failed", {"model": "m", "kind": "archive", "message": "It broke.", "remedy": ""}),
    ("model", {"model": "m", "state": "done"}),
    ("artefact", {"model": "m", "variant": "int8", "file": "f", "size": 1}),
    ("never heard of", {"anything": object()}),
]


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonReporter() as reporter:
        for name, fields in EVENTS[:-1]:
            reporter.event(name, **fields)
        reporter.event("note", message="two\nlines \u2028 ü \ud800")
    out, err = capsys.readouterr()
    lines = out.removesuffix("\n").split("\n")
    expected = [{"event": name, **fields} for name, fields in EVENTS[:-1]]
    assert [json.loads(line) for line in lines][:-1] == expected
    assert json.loads(lines[-1])["message"] == "two\nlines \u2028 ü \ud800"
    assert out.isascii()
    assert err == ""


def test_json_lines_of_several_threads_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = JsonReporter()

    def talk(name: int) -> None:
        for count in range(50):
            reporter.event("note", message="x" * 200, name=name, count=count)

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((item["name"], item["count"]) for item in found) == [
        (name, count) for name in range(8) for count in range(50)
    ]


def test_json_lines_are_out_before_anything_else_happens() -> None:
    code = (
        "import os; from kiln.cli.reporters import JsonReporter;"
        "JsonReporter().event('a'); os._exit(0)"
    )
    environment = {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout == b'{"event": "a"}\n', done.stderr


def test_text_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with TextReporter() as reporter:
        for name, fields in EVENTS:
            reporter.event(name, **fields)
    out, err = capsys.readouterr()
    assert out == ""  # results go there, progress does not
    assert "\x1b" not in err and "\r" not in err
    lines = [line.partition("] ")[2] for line in err.splitlines()]
    assert lines == [
        "downloading: 0.0 MB, 1 files open",
        "image base: building ...",
        "image base: sealed as sha256:00 in 22.6 s",
        "image odapi: pull, registry.example/odapi",
        "image odapi: sealed as sha256:01",
        "m: export: warning: [red]odd[/]",
        "m: export in 1.2 s, peak 3 MiB",
        "a note",
        "FAILED m: It broke.",
        "       Mend it.",
        "FAILED m: It broke.",
    ]


def test_a_log_has_a_line_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with TextReporter() as reporter:
        for stage in ("checkpoint", "export", "convert-int8"):
            for state in ("started", "progress", "progress", "finished"):
                reporter.event("stage", model="m", id=stage, state=state, seconds=1.0)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_log_says_nothing_of_downloads_that_are_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with TextReporter() as reporter:
        reporter.event("download", name="a.whl", done=10, total=10)
    assert capsys.readouterr().err == ""


def test_text_on_a_terminal_has_bars_and_the_same_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with TextReporter() as reporter:
        for name, fields in EVENTS:
            reporter.event(name, **fields)
    out, err = capsys.readouterr()
    assert out == ""
    for words in (
        "image base: seal, one canonical",
        "image base: sealed as sha256:00",
        "[red]odd[/]",
        "FAILED m: It broke.",
    ):
        assert words in err


def test_bars_end_when_an_exception_passes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(KeyboardInterrupt), TextReporter() as reporter:
        reporter.event("download", name="a", done=1, total=2)
        raise KeyboardInterrupt
    # The cursor, hidden while bars move, is shown again.
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    err = capsys.readouterr().err
    assert -1 < err.rindex(hidden) < err.rindex(shown)


cells = st.text(st.characters(categories=["L", "N"]), max_size=6)


@given(st.lists(st.tuples(cells, cells, cells), max_size=5))
def test_a_table_s_columns_line_up(rows: list[tuple[str, ...]]) -> None:
    lines = table(["one", "two", "three"], [list(row) for row in rows]).split("\n")
    assert len(lines) == len(rows) + 1
    second = lines[0].index("two")
    third = lines[0].index("three")
    for line, row in zip(lines[1:], rows, strict=True):
        assert line[:second].rstrip() == row[0]
        assert line[second:third].rstrip() == row[1]
        assert line[third:] == row[2]
        assert line == line.rstrip()
