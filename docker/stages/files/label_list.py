"""Tell a label map from the other files that name a model's classes.

A plain list of names is understood. Every other form is refused under its own name: which class
its entries mean is not certain, and a wrong guess is silent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn, Optional

from stages.protocol.failures import StageError

GAP = "???"
"""The placeholder line for an id that the label map leaves out (as in TFLite's label files)."""

EXAMPLE = "A label map is a list of blocks such as: item { id: 1 name: 'person' }"

_REMEDY = f"{EXAMPLE}. A plain list of names, one a line, is taken as well."

_MAX_NAME = 200  # characters: longer lines are text of another kind

_ITEM = re.compile(r"^\s*item\s*:?\s*[{<\[]", re.MULTILINE)
_CONFIG = re.compile(r"^\s*(model|train_config|(train|eval)_input_reader)\s*:?\s*\{", re.MULTILINE)
_FIRST_QUOTE = re.compile(r"[^\"']*(['\"])")
_NUMBERED = re.compile(r"\d+(\s*[:.)]\s*|\s+)\D")
_KEY = re.compile(r"\w+\s*:(\s|\Z)")
_ODD = re.compile(r"[{}\[\]<>:=\"#\x00-\x1f]|\A['*-]")  # marks of other formats
_BACKGROUND = ("background", "__background__", GAP)


def is_label_map(text: str) -> bool:
    """Whether ``text`` has the blocks of a label map, or nothing at all."""
    return _ITEM.search(text) is not None or not _written(text)


def names(text: str, source: str) -> list[str]:
    """Return the lines of a plain list of names, which ``text`` has to be.

    Raises:
        StageError: kind ``label-map``; it is a file of another kind. The message names it.
    """
    kind = _kind(text, [line for _, line in _written(text)])
    if kind is not None:
        raise _failure(f"{source} is {kind}, not a label map.")
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for number, line in enumerate(lines, 1):
        if not line:
            _refuse(source, number, "is empty; in a plain list of names each line is a class")
        if len(line) > _MAX_NAME or _ODD.search(line):
            _refuse(source, number, f"is neither 'item {{' nor a name of a class: {line[:40]!r}")
    return lines


def without_background(
    lines: Sequence[str], num_classes: Optional[int], source: str
) -> Sequence[str]:
    """Return the lines of a plain list from class 1 on.

    A line for the background before it, as the label files of older TFLite models have it, is
    left out.

    Args:
        lines: from :func:`names`.
        num_classes: how many classes the model scores; None: not known yet.
        source: the file's name for messages.

    Raises:
        StageError: kind ``label-map``; the number of names is not the number of classes, or it is
            not certain which line is class 1.
    """
    background = lines[0].lower() in _BACKGROUND
    if num_classes is None or (background and len(lines) == num_classes + 1):
        return lines[1:] if background else lines
    if len(lines) != num_classes:
        raise _failure(
            f"{source} is a plain list with {len(lines)} lines, but the number of the model's "
            f"classes is {num_classes}.",
            f"A plain list needs a line for each class. Or write a label map. {EXAMPLE}.",
        )
    if background and lines[0] != GAP:  # else it is class 1 without a name, as kiln writes it
        raise _failure(
            f"{source} is a plain list of {num_classes} names that begins with {lines[0]!r}, and "
            f"the model has {num_classes} classes besides the background: which line is class 1 "
            "is not certain.",
            f"Write a label map with the classes' ids. {EXAMPLE}.",
        )
    return lines


def _written(text: str) -> list[tuple[int, str]]:
    """Return the lines that are neither empty nor a comment, with their numbers."""
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _kind(text: str, lines: Sequence[str]) -> Optional[str]:
    """Name the kind of a file that is no list of names; None: it may be one."""
    if _CONFIG.search(text):
        return "a pipeline.config"
    first = lines[0]
    if first[0] in "{[":
        quote = _FIRST_QUOTE.match(text)
        return "a Python dictionary or list, printed" if quote and quote[1] == "'" else "JSON"
    if first[0] == "<":
        return "XML or HTML"
    if all(_NUMBERED.match(line) for line in lines):
        return f"a list of numbered names ({first[:40]!r}), which may count from 0 or 1"
    for mark, name in ((",", "commas"), (";", "semicolons"), ("\t", "tabs")):
        if mark in first and len({line.count(mark) for line in lines}) == 1:
            return f"a table of values between {name} (CSV)"
    if _KEY.match(first) or first.startswith(("- ", "---")):
        return "YAML"
    return None


def _refuse(source: str, line: int, reason: str) -> NoReturn:
    raise _failure(f"{source}: line {line} {reason}.")


def _failure(message: str, remedy: str = _REMEDY) -> StageError:
    return StageError("label-map", message, remedy)
