"""docs/inspecting.md against the commands it shows."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from places import ROOT

from kiln.cli.diff import DIFFERENT
from kiln.cli.main import cli
from kiln.core.errors import KilnError, OutputClosedError, UnsupportedModelError, UsageError

PAGE = (ROOT / "docs" / "inspecting.md").read_text("utf-8")


def examples() -> list[tuple[str, str]]:
    """Every command on the page, and what the page says that it prints."""
    return re.findall(r"<!-- run: kiln ([^\n]+) -->\n```\n(.*?)```\n", PAGE, re.DOTALL)


@pytest.mark.parametrize(("words", "shown"), examples(), ids=[words for words, _ in examples()])
def test_examples_are_what_is_printed(
    words: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KILN_PROJECT", str(ROOT))
    ended = CliRunner().invoke(cli, words.split())
    assert ended.exit_code == (DIFFERENT if words.startswith("diff ") else 0)
    parts = shown.split("[...]\n")
    rest = ended.output
    assert rest.startswith(parts[0])
    assert rest.endswith(parts[-1])
    for part in parts:
        assert part in rest
        rest = rest.partition(part)[2]


def test_both_commands_have_examples() -> None:
    assert [words.split()[0] for words, _ in examples()].count("inspect") == 2
    assert [words.split()[0] for words, _ in examples()].count("diff") == 2


def test_exit_codes_are_the_real_ones() -> None:
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
    failures = [UsageError, UnsupportedModelError, OutputClosedError]
    assert codes == [0, DIFFERENT, *(failure.exit_code for failure in failures)]


def test_no_failure_has_the_exit_code_of_a_difference() -> None:
    assert all(cls.exit_code != DIFFERENT for cls in KilnError.__subclasses__())
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "scripts" / "kiln").rglob("*.py"))
    assert "raise KilnError(" not in text
