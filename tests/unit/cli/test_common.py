"""Options that are numbers, of every command: what is no number never gets in."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from kiln.cli.common import channel_values
from kiln.cli.main import cli
from kiln.core.errors import UsageError


def options(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Option]]:
    """Every option of every command, with the command line that it belongs to."""
    for name, command in group.commands.items():
        line = f"{above} {name}".strip()
        if isinstance(command, click.Group):
            yield from options(command, line)
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield f"{line} {parameter.opts[0]}", parameter


NUMBERS = {
    name: option
    for name, option in options(cli)
    if isinstance(option.type, click.types.FloatParamType)
}


def test_all_are_found() -> None:
    for name in (
        "convert --score-threshold",
        "annotate --score-threshold",
        "bench-model --seconds",
    ):
        assert name in NUMBERS


@pytest.mark.parametrize("text", ["nan", "-nan", "NaN", "inf", "-inf", "1e999", "-1", "", "0,5"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_in_bounds_is_refused(name: str, text: str) -> None:
    option = NUMBERS[name]
    with pytest.raises(click.BadParameter, match=r"range|not a valid float"):
        option.type.convert(text, option, None)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e39", "127.5,nan,1", "", "1,2", "a"])
def test_mean_and_std_are_numbers_that_metadata_can_hold(text: str) -> None:
    for name in ("mean", "std"):
        with pytest.raises(UsageError, match="is not one number, or three"):
            channel_values(name, text)


@pytest.mark.parametrize("text", ["0", "-1", "1e-45", "58,57,0"])
def test_nothing_is_divided_by_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        channel_values("std", text)


def test_usual_values() -> None:
    assert channel_values("mean", "0") == (0.0,)
    assert channel_values("mean", "123.68,116.78,103.94") == (123.68, 116.78, 103.94)
    assert channel_values("std", "255") == (255.0,)
