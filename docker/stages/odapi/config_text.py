"""The text of a ``pipeline.config``, without what a conversion never needs.

Protobuf's parser refuses a whole file for one field it does not know, or for a backslash in a path
of the training. A conversion needs the model, and of the evaluation only whether it averaged the
weights. This cuts out the rest. Lines keep their numbers. The driver uses it as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MODEL = "model"

NEVER_NEEDED = ("train_config", "train_input_reader", "eval_input_reader", "graph_rewriter")
"""Blocks that a conversion does not read at all."""

_EVALUATION = "eval_config"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_AVERAGES = re.compile(r"\buse_moving_averages\s*:\s*\w+")

# What has no end on its line is one part, too: a search from each of its quotation marks would take
# quadratic time.
_PART = re.compile(
    r"""(?P<comment>\#[^\n]*)
      |(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      |"(?:[^"\\\n]|\\[^\n])*|'(?:[^'\\\n]|\\[^\n])*
      |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
      |(?P<open>[{<])
      |(?P<close>[}>])""",
    re.VERBOSE,
)
#: A folder of Windows at the end of a line, whose last backslash would escape the closing mark.
_FOLDER = re.compile(r"""(["'])([^"'\n]*[^"'\\\n])\\\1(?=[ \t\r,;}>]*$)""", re.MULTILINE)
#: A backslash that is not there to escape a quotation mark or another backslash.
_LITERAL = re.compile(r"""\\(\\|"|')|\\""")


def decode(data: bytes) -> str:
    """Decode a file of UTF-8, with or without a byte order mark.

    Bytes in another encoding do not matter where a conversion needs nothing: in comments, and in
    blocks that are not read.

    Raises:
        UnicodeDecodeError: they stand elsewhere.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = needed(data.decode("utf-8-sig", "replace"))
        if _REPLACEMENT in text or "\0" in text:
            raise
        return text


def needed(text: str) -> str:
    """Return ``text`` without comments, and without the blocks that a conversion never needs.

    In the strings that are left, backslashes stand for themselves: these are paths, and every name
    of the Object Detection API does without. Where braces are not balanced, blocks stay; but one
    without an end behind the model goes, too.
    """
    text = _PART.sub(_literal, _FOLDER.sub(r"\1\2\\\\\1", text))
    kept, at = [], 0
    for block in _blocks(text):
        left = ""
        if block.name == _EVALUATION:
            said = _AVERAGES.search(text, block.start, block.end)
            left = f"{_EVALUATION} {{ {said[0]} }} " if said else ""
        elif block.name not in NEVER_NEEDED:
            continue
        lines = "\n" * text.count("\n", block.start, block.end)
        kept += [text[at : block.start], left, lines]
        at = block.end
    return "".join((*kept, text[at:]))


@dataclass(frozen=True)
class _Block:
    """A block of the outermost level: its name, and where name and block stand in the text."""

    name: str
    start: int
    end: int


def _blocks(text: str) -> Iterator[_Block]:
    depth, name, start, seen = 0, "", 0, False
    for part in _PART.finditer(text):
        if part["word"] and depth == 0:
            name, start = part["word"], part.start()
        depth += bool(part["open"]) - bool(part["close"])
        if depth < 0:
            return  # a brace too many: what follows belongs to nothing
        if part["close"] and depth == 0:
            yield _Block(name, start, part.end())
            seen = seen or name == MODEL
            name, start = "", part.end()  # what follows without a word has no name
    if depth > 0 and seen:
        yield _Block(name, start, len(text))


def _literal(part: re.Match[str]) -> str:
    """Make the backslashes of a string stand for themselves; remove a comment."""
    if part["comment"]:
        return ""
    if not part["string"]:
        return part[0]
    return _LITERAL.sub(lambda found: found[0] if found[1] else "\\\\", part[0])
