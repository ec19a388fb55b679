"""Sizes and durations, as recipes write them."""

from __future__ import annotations

import pytest

from kiln.recipes import values


@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("2 KiB", 2048), ("1kB", 1000), ("0.5GiB", 2**29), ("3MB", 3e6)]
)
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "GiB", "-1GiB", "0MiB", "1 XB", "1e3MB", "1GiB2"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        values.parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("30min", 1800), ("90s", 90), ("1h 1min 1s", 3661)])
def test_durations(text: str, seconds: int) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "0min", "min", "-1s", "1s1h", "1.5h", "1d"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        values.parse_duration(text)
