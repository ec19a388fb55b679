"""Format generated tables of words as ruff would."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_WIDTH = 100  # characters of a line, as ruff is set


def entry(name: str, words: Sequence[str]) -> str:
    """Format an item of a dictionary: a name, and words in one string."""
    line = f'    "{name}": "{" ".join(words)}",\n'
    if len(line) <= _WIDTH + 1:
        return line
    return f'    "{name}": (\n{_strings(words, " " * 8)}    ),\n'


def call(words: Sequence[str], indent: str) -> str:
    """Format a call of the generated module's ``_words``."""
    text = " ".join(words)
    if len(text) < 60:
        return f'_words("{text}")'
    return f"_words(\n{_strings(words, indent + '    ')}{indent})"


def _strings(words: Sequence[str], indent: str) -> str:
    lines = textwrap.wrap(
        " ".join(words), _WIDTH - len(indent) - 3, break_long_words=False, break_on_hyphens=False
    )
    ends = [" "] * (len(lines) - 1) + [""]
    return "".join(f'{indent}"{line}{end}"\n' for line, end in zip(lines, ends, strict=True))
