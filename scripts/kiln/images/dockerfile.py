"""Check that an untrusted Dockerfile only uses what kiln's own Dockerfiles use.

Builders can do a lot: ``ADD`` of an address downloads as root, a comment in the first lines
replaces the parser, ``RUN --mount`` and ``COPY --from`` read other images, a here document is a
shell script. So every line must match one of the forms below exactly, in the order of kiln's own
Dockerfiles. What remains is the images' own installer, in a build container without a network.
"""

from __future__ import annotations

import re

from kiln.core.untrusted import MalformedError

#: Most bytes of a Dockerfile: twenty times the largest of ours.
MAX_BYTES = 32 << 10
_MAX_INSTRUCTIONS = 64

_WORD = '"[A-Za-z0-9_./@=:+-]+"'
_PLACE = "/(?:[A-Za-z0-9_.-]+/)*[A-Za-z0-9_.-]*"
_SETTING = r"[A-Z][A-Z0-9_]*=[A-Za-z0-9_./:-]*"

_BASE = re.compile(r"ARG BASE=[a-z0-9./:-]+")
_OWNER = ("ARG OWNER=", 'LABEL org.tflite-kiln.owner="${OWNER}"')

#: All forms of the remaining instructions: copy a helper file or the whole context; add the root
#: file system, which kiln made of locked packages; run the installer or remove its input, without a
#: shell; and settings.
_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"COPY (?:\.|[A-Za-z0-9_][A-Za-z0-9_.-]*) {_PLACE}",
        r"ADD rootfs\.tar /",
        rf'RUN \["/usr/bin/python3", "-B", "/build/install\.py"(?:, {_WORD})*\]',
        r'RUN \["/bin/rm", "-rf", "/build"\]',
        rf"ENV {_SETTING}(?: +{_SETTING})*",
        rf"WORKDIR {_PLACE}",
        rf"CMD \[{_WORD}(?:, {_WORD})*\]",
    )
)

#: A comment that a builder may treat as a parser directive.
_DIRECTIVE = re.compile(r"#\s*[A-Za-z_.-]+\s*=")


def check(text: bytes | str, *, parent: bool) -> None:
    """Refuse a Dockerfile with an instruction that kiln's own do not have.

    Args:
        parent: whether the image starts from another one of kiln's; otherwise from nothing.

    Raises:
        MalformedError: it has one; the message names it.
    """
    lines = _lines(text)
    instructions = _instructions(lines)
    if len(instructions) > _MAX_INSTRUCTIONS:
        raise MalformedError(f"has more than {_MAX_INSTRUCTIONS} instructions")
    expected = ["FROM ${BASE}" if parent else "FROM scratch", *_OWNER]
    if parent and instructions and _BASE.fullmatch(instructions[0]):
        instructions.pop(0)
    for wanted in expected:
        found = instructions.pop(0) if instructions else "nothing"
        if found != wanted:
            raise MalformedError(f"has {_shown(found)} where ours have `{wanted}`")
    for instruction in instructions:
        if not any(form.fullmatch(instruction) for form in _FORMS):
            raise MalformedError(f"has an instruction that is not allowed: {_shown(instruction)}")


def _lines(text: bytes | str) -> list[str]:
    """Split the file into lines in the one way that all builders agree on."""
    if len(text) > MAX_BYTES:
        raise MalformedError(f"is larger than {MAX_BYTES:,} bytes")
    try:
        content = text if isinstance(text, str) else text.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedError("is not ASCII text") from None
    lines = content.split("\n")
    for line in lines:
        if not line.isascii() or not (line.isprintable() and line == line.rstrip()):
            raise MalformedError(f"has an unusual character or trailing space in {_shown(line)}")
        if _DIRECTIVE.match(line.lstrip()):
            raise MalformedError(f"has a comment that may be a parser directive: {_shown(line)}")
    return lines


def _instructions(lines: list[str]) -> list[str]:
    """Join continued lines into instructions (a backslash at the end continues a line)."""
    found: list[str] = []
    going_on = False
    for line in lines:
        if going_on:
            # Builders disagree about empty lines and comments in the middle of an instruction.
            if not line or line.lstrip().startswith("#"):
                raise MalformedError("has an empty line or a comment inside an instruction")
            found[-1] += line.lstrip()
        elif not line or line.startswith("#"):
            continue
        else:
            found.append(line)
        going_on = line.endswith("\\")
        if going_on:
            found[-1] = found[-1][:-1]
    if going_on:
        raise MalformedError("ends in the middle of an instruction")
    return found


def _shown(line: str) -> str:
    return f"`{line[:100]!a}`"
