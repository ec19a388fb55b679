"""``kiln explain-int8``: its table, its picture, and what it refuses before an engine is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_texts import GOOD, write

from kiln.cli import explain_int8
from kiln.cli.main import cli
from kiln.core.errors import KilnError, UsageError
from kiln.measure.quantisation import Explanation, Layer

FOUND = Explanation(
    "toy",
    6,
    tuple(
        Layer(f"net/{name}", "CONV_2D", steps / 10, 1.0, 0.1, steps)
        for name, steps in (("a", 0.3), ("b\x1b[2J", 2.0), ("c", 0.5))
    ),
    ("net/d",),
)


def run(*words: str) -> None:
    cli.main(["explain-int8", *words], standalone_mode=False)


def test_the_table_has_the_worst_first() -> None:
    head, first, second, blank, *notes = explain_int8._text(FOUND, 2).splitlines()
    assert head.split() == ["toy", "operator", "rmse/scale", "rmse", "largest"]
    assert first.split() == ["net/b\\x1b[2J", "CONV_2D", "2.00", "0.2", "1"]
    assert second.split()[0] == "net/c"
    assert blank == ""
    assert notes[0].startswith("The 2 worst of 3 layers, on 6 calibration pictures.")
    assert notes[1] == "In float: 1 layer."
    assert 'float_layers = ["net/b\\x1b[2J"]' in notes[2]
    assert explain_int8._text(FOUND, 20).splitlines()[-3].startswith("3 layers, on 6")


def test_the_picture_has_every_layer(tmp_path: Path) -> None:
    explain_int8._draw(FOUND, tmp_path / "layers.svg")
    text = (tmp_path / "layers.svg").read_text("utf-8")
    assert text.count("<rect") == 3
    with pytest.raises(UsageError, match="cannot be written"):
        explain_int8._draw(FOUND, tmp_path / "none" / "layers.svg")


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (GOOD.replace('"dynamic", "int8"', '"dynamic"'), [], "'toy' has no variant 'int8'"),
        (GOOD.replace('[calibration]\nimages = "../images"\n', ""), [], r"needs \[calibration\]"),
        (GOOD, ["--svg", "{tmp}"], "cannot be written: it is a folder"),
        (GOOD, ["--svg", "{tmp}/none/x.svg"], "cannot be written"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, words: list[str], said: str) -> None:
    write(tmp_path, text)
    chosen = [word.format(tmp=tmp_path) for word in words]
    with pytest.raises(KilnError, match=said):
        run("toy", "--models-dir", str(tmp_path / "models"), *chosen)


def test_a_model_that_does_not_exist(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(UsageError, match="toys"):
        run("toys", "--models-dir", str(tmp_path / "models"))
