"""Hold the fields of a ``pipeline.config`` against the Object Detection API's messages.

Its parser stops at the first field that it does not know, in a container, and says so in its own
words. Most often a brace is missing, or a line was pasted into the wrong block: this finds the
field before, and says where it belongs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from kiln.recipes.pipeline_config import Block, Field
from kiln.recipes.pipeline_schema import ENUMS, MESSAGES

_ROOT = "TrainEvalPipelineConfig"
_MODEL = "model"

_WHOLE = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)")
_NUMBER = re.compile(
    r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[fF]?|[+-]?(inf|infinity|nan)f?",
    re.IGNORECASE,
)
_TRUTH = ("true", "false", "True", "False", "t", "f", "1", "0")

#: What a value of each type is, in words.
_WORDS = {
    "i": "a whole number",
    "u": "a whole number, 0 or more",
    "f": "a number",
    "b": "true or false",
    "s": "a text in quotation marks",
}
_MANY_VALUES = 8  # of an enumeration, in a message


@dataclass(frozen=True)
class Fault:
    """A field that the Object Detection API would refuse."""

    line: int
    message: str
    remedy: str


@dataclass(frozen=True)
class _Kind:
    """A field's type as :data:`~kiln.recipes.pipeline_schema.MESSAGES` gives it."""

    type: str
    repeated: bool
    oneof: str


def first_fault(root: Block) -> Fault | None:
    """Find the first field of a configuration's outermost message that would be refused."""
    return next(_faults(root, _ROOT, (), _architecture(root)), None)


def _architecture(root: Block) -> str:
    model = root.model
    return (model.WhichOneof(_MODEL) or "") if isinstance(model, Block) else ""


def _faults(block: Block, message: str, path: tuple[str, ...], meta: str) -> Iterator[Fault]:
    kinds = _fields(message)
    seen: dict[str, Field] = {}
    for item in block.fields:
        kind = kinds.get(item.name)
        if kind is None:
            yield _unknown(item, path, tuple(kinds), meta)
            continue
        rival = seen.get(kind.oneof or item.name)
        if rival is not None and not kind.repeated:
            yield _twice(item, rival)
        seen[kind.oneof or item.name] = item
        if isinstance(item.value, Block) and kind.type.startswith("@"):
            if path or item.name == _MODEL:  # of the others a conversion needs nothing
                yield from _faults(item.value, kind.type[1:], (*path, item.name), meta)
        elif not _fits(item, kind):
            yield _misfit(item, kind)


@cache
def _fields(message: str) -> dict[str, _Kind]:
    found = {}
    for word in MESSAGES[message].split():
        name, _, rest = word.partition(":")
        type_, _, oneof = rest.partition("|")
        # No field has a number as its name, so the two kinds of keys of `seen` stay apart.
        found[name] = _Kind(type_.strip("[]"), type_.startswith("["), oneof)
    return found


def _fits(item: Field, kind: _Kind) -> bool:
    if item.kind == "list":
        return kind.repeated
    if isinstance(item.value, Block) or kind.type.startswith("@"):
        return False
    if kind.type == "s" or item.kind == "string":
        return kind.type == "s" and item.kind == "string"
    value = item.value
    if kind.type == "f":
        return bool(_NUMBER.fullmatch(value))
    if kind.type == "b":
        return value in _TRUTH
    if kind.type in ("i", "u"):
        return bool(_WHOLE.fullmatch(value)) and (kind.type == "i" or not value.startswith("-"))
    return value in ENUMS[kind.type].split() or bool(_WHOLE.fullmatch(value))


def _misfit(item: Field, kind: _Kind) -> Fault:
    if kind.type.startswith("@"):
        wanted = f"a block: {item.name} {{ ... }}"
    elif kind.type in _WORDS:
        wanted = _WORDS[kind.type]
    else:
        values = ENUMS[kind.type].split()
        more = ", ..." if len(values) > _MANY_VALUES else ""
        wanted = f"one of {', '.join(values[:_MANY_VALUES])}{more}"
    seen = {"block": "a block", "list": "a list"}.get(item.kind, repr(item.value))
    return Fault(
        item.line,
        f"{item.name} is {seen}, and should be {wanted}.",
        "Correct the line, or use the copy of the file that the training left beside its "
        "checkpoints.",
    )


def _twice(item: Field, rival: Field) -> Fault:
    if item.name == rival.name:
        said = f"{item.name} is there for the second time; the first is on line {rival.line}."
    else:
        said = f"{item.name} excludes {rival.name}, which is on line {rival.line}."
    return Fault(
        item.line,
        said,
        "Keep one of them. If both are right, a closing brace is missing between them.",
    )


def _unknown(item: Field, path: tuple[str, ...], known: tuple[str, ...], meta: str) -> Fault:
    if path:
        said = f"{'.'.join(path)} has no field {item.name}."
    else:
        said = f"{item.name} stands outside of every block."
    outer = [path[:end] for end in range(len(path) - 1, -1, -1)]
    above = [place for place in outer if item.name in _fields(_message(place))]
    below = _owners(item.name, path if len(path) > 1 else (_MODEL, meta))
    elsewhere = _owners(item.name, (_MODEL, meta)) or _owners(item.name, ())
    if above:
        cause, places = "A closing brace is missing above it", above[:1]
    elif below:
        cause, places = "A closing brace is one too many above it", below[:2]
    else:
        cause, places = "A closing brace is missing or one too many above it", elsewhere[:2]
    if places:
        named = " or ".join(".".join(place) or "the outermost level" for place in places)
        remedy = f"{cause}, or it was pasted into the wrong block: {item.name} belongs to {named}."
        return Fault(item.line, said, remedy)
    near = difflib.get_close_matches(item.name, known, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return Fault(
        item.line,
        said,
        f"{hint}The Object Detection API has no field of that name. Correct the line; what a "
        "changed API trained cannot be converted.",
    )


def _message(path: tuple[str, ...]) -> str:
    """Return the name of the message at ``path``; empty if there is none."""
    message = _ROOT
    for part in path:
        kind = _fields(message).get(part)
        if kind is None:
            return ""
        message = kind.type[1:]
    return message


def _owners(name: str, start: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the paths of the messages from ``start`` on that have the field, the nearest first."""
    top = _message(start)
    waiting, seen, found = [(start, top)] if top else [], {top}, []
    for place, message in waiting:  # grows on the way
        fields = _fields(message)
        if name in fields:
            found.append(place)
        for field, kind in fields.items():
            inner = kind.type[1:]
            if kind.type.startswith("@") and inner not in seen:
                seen.add(inner)
                waiting.append(((*place, field), inner))
    return found
