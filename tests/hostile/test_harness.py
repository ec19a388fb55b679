"""The harness can fail: a driver that does it wrong is caught, and so is a command that does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostile import commands
from hostile.canary import Canary
from hostile.cases import Case, FindingError, LeftOutError, Verdict
from hostile.commands import Desk, desk
from hostile.disks import may_mount
from hostile.stage_output import StageOutput, _check_text
from hostile.storm import DOCUMENT, TARGET, Storm, documentation
from kiln.core.errors import UsageError
from shared import document_table

BEGIN, END = "<!-- table: `make storm` writes it -->", "<!-- end of table -->"

#: What a driver that takes files by name and follows links gets wrong, and what is said of it.
CAUGHT = {
    "link-file-canary": "accepted|bytes of the host",
    "link-files-canary-folder": "accepted|bytes of the host",
    "link-report-report": "accepted|bytes of the host",
    "link-file-environment": "accepted|bytes of the host",
    "swap-folder-m-canary-folder": "bytes of the host|ended with code|left in the store",
    "event-stage-list": "ended with code",
    "event-finished-without-seconds": "left in the store",
    "report-deep-list": "ended with code",
    "deep-1000-work-files": "ended with code|left in the store|accepted",
    "fifo-as-report": "still at it",
}


@pytest.mark.parametrize(("name", "words"), CAUGHT.items())
def test_a_naive_driver_is_caught(
    name: str, words: str, sealed: tuple[str, str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostile.stage_output.PATIENCE", 2)  # it hangs where a FIFO is
    tag, address = sealed
    with pytest.raises(FindingError, match=words):
        StageOutput(tag, address, driver="naive").run(Case("stage-output", name, 1), place)


def test_an_honest_stage_is_not(sealed: tuple[str, str], place: Path) -> None:
    """But for the scratch that the naive driver leaves, which is a fault, too."""
    tag, address = sealed
    with pytest.raises(FindingError, match="left in the store"):
        StageOutput(tag, address, driver="naive").run(Case("stage-output", "honest", 1), place)


#: Ways of a command to be wrong: Python in the place of kiln -> what is said of it.
WRONG: dict[str, tuple[str, str]] = {
    "a traceback": ("raise RuntimeError('x')", "a traceback"),
    "a code of nobody's": ("import sys; print('x'); sys.exit(99)", "exit code 99"),
    "no words": ("import sys; sys.exit(41)", "without a word"),
    "a signal": ("import os; os.kill(os.getpid(), 11)", "exit code -11"),
    "no end": ("import time; time.sleep(60)", "not ended"),
    "memory": ("x = bytearray(4 << 30)", "a traceback"),
    "an escape": ("print('\\x1b[2J')", "shows"),
    "a bidi mark": ("print('\\u202e')", "shows RIGHT-TO-LEFT OVERRIDE"),
    "a secret": ("import os; print(os.environ['hostile_canary'])", "bytes of the host"),
    "a change": ("import pathlib; pathlib.Path(r'GIVEN/x').write_text('y')", "changed what it was"),
    "a look outside": ("open(r'SECRET/canary').read()", "outside was read"),
    "a change outside": ("import pathlib; pathlib.Path(r'SECRET/open').write_text('y')", "outside"),
    "a leftover": ("import os, pathlib; pathlib.Path(os.environ['TMPDIR'], 'x').touch()", "left"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_command_is_caught(what: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, words = WRONG[what]
    with _as_kiln(place, code, monkeypatch) as here, pytest.raises(FindingError, match=words):
        here.run("verify", seconds=10)


def test_a_right_command_is_not(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _as_kiln(place, "print('All good.')", monkeypatch) as here:
        assert here.run("verify").out == "All good.\n"


def _as_kiln(
    place: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> contextlib.AbstractContextManager[Desk]:
    """A desk whose command is this code."""
    package = place / "scripts" / "kiln"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    text = code.replace("GIVEN", str(place / "desk" / "given"))
    (package / "cli.py").write_text(text.replace("SECRET", str(place / "secret")))
    commands.exit_codes()  # of the real table
    monkeypatch.setattr("hostile.commands.ROOT", place)
    return desk(place)


def test_exit_codes_are_those_of_the_documents() -> None:
    assert {0, 2, 24, 27, 31, 41, 130} <= commands.exit_codes()
    assert 1 not in commands.exit_codes()


# --- the canary ---------------------------------------------------------------------------------


def test_a_canary_that_was_seen(place: Path) -> None:
    canary = Canary.plant(place / "secret")
    store = place / "store"
    (store / "deep").mkdir(parents=True)
    canary.check_unseen(store)
    with (store / "deep" / "blob").open("wb") as file:
        file.truncate(50 << 20)  # behind a hole, and across two readings
        file.seek((50 << 20) - 7)
        file.write(b"x" + canary.word.encode())
    with pytest.raises(FindingError, match="blob"):
        canary.check_unseen(store)


TOUCHES: dict[str, Callable[[Path], object]] = {
    "written": lambda folder: (folder / "open").write_text("x"),
    "removed": lambda folder: (folder / "canary").unlink(),
    "added": lambda folder: (folder / "new").touch(),
    "rights": lambda folder: (folder / "canary").chmod(0o444),
    "linked": lambda folder: os.link(folder / "canary", folder.parent / "second"),
    "folder's rights": lambda folder: folder.chmod(0o700),
    "read": lambda folder: (folder / "canary").read_bytes(),
}


@pytest.mark.parametrize("how", TOUCHES)
def test_a_canary_that_was_touched(how: str, place: Path) -> None:
    canary = Canary.plant(place / "secret")
    canary.folder.chmod(0o755)
    canary = Canary(canary.word, canary.folder, tuple(canary._look()))
    canary.check_untouched()
    TOUCHES[how](canary.folder)
    if how == "read" and (canary.folder / "canary").stat().st_atime < 10:
        pytest.skip("this file system is mounted so that it notes no access")
    with pytest.raises(FindingError, match="outside w"):
        canary.check_untouched()


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "a\rb", "\x9b", "\u202e", "\u2066", "\x7f"])
def test_text_that_does_something(text: str) -> None:
    with pytest.raises(FindingError, match="shows"):
        _check_text(f"before {text} after")
    _check_text("plain, with caf\u00e9 and a\n line and a\ttab")


# --- the storm ----------------------------------------------------------------------------------


@dataclass
class Weather:
    """A family whose cases end as their names say."""

    name = "weather"
    what = "nothing much"
    weight = 1

    def names(self) -> Sequence[str]:
        return ("fine", "refusing", "failing", "raising", "left-out")

    def run(self, case: Case, place: Path) -> Verdict:
        assert not list(place.iterdir())
        if case.name == "failing":
            raise FindingError("a half-written file")
        if case.name == "raising":
            raise RuntimeError("the harness is broken")
        if case.name == "left-out":
            raise LeftOutError("not here")
        return Verdict(case.name == "refusing", "word", 3)


def test_what_a_storm_counts(place: Path) -> None:
    said: list[str] = []
    found = Storm([Weather()], place, said.append)
    for name in Weather().names():
        found.run(Case("weather", name, 5))
    assert found.rows() == [["weather", "nothing much", "8", "3", "3", "2"]]
    assert len(found.failed) == 2 and "half-written" in found.failed[0]
    assert "  again: make storm CASE=weather/failing/5" in said
    assert list(place.iterdir()) == []


def test_a_storm_ends_when_the_time_is_up(place: Path) -> None:
    found = Storm([Weather()], place, lambda _: None)
    found.blow(seed=1, seconds=0.2, jobs=2)
    count = found.counts["weather"]
    assert count.tried > 5 and count.refused and count.survived and count.failed and count.left_out


def test_the_same_seed_picks_the_same_cases(place: Path) -> None:
    import random

    picked = []
    for _ in range(2):
        found, dice = Storm([Weather()], place, lambda _: None), random.Random(3)
        picked.append([found._pick(dice) for _ in range(20)])
    assert picked[0] == picked[1]
    assert {case.name for case in picked[0][:5]} == set(Weather().names())


def test_dice_are_a_case_s_own() -> None:
    one, other = Case("a", "b", 1), Case("a", "b", 2)
    assert one.dice().random() == Case.parse(str(one)).dice().random() != other.dice().random()


def test_the_table_goes_between_the_marks(place: Path) -> None:
    document = place / "security.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    found = Storm([Weather()], place, lambda _: None)
    found.run(Case("weather", "fine", 1))
    document_table.write_table(document, TARGET, documentation(found, 7, 90))
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| family |") and text.endswith(f"{END}\nafter\n")
    assert "| weather | nothing much | 3 | 0 | 3 | 0 |" in text and "seed 7" in text
    document.write_text("no marks")
    with pytest.raises(UsageError):
        document_table.write_table(document, TARGET, "x")


def test_the_document_has_its_place() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


@pytest.mark.skipif(not may_mount(), reason="mounting needs root")
def test_a_desk_leaves_nothing(place: Path) -> None:
    with desk(place) as here:
        (here.given / "large").write_bytes(b"x" * 1_000_000)
        assert isinstance(here, Desk)
    assert list((place / "desk").iterdir()) == []
