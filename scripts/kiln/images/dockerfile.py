"""Check that an untrusted Dockerfile only uses what kiln's own use, and read those.

Builders can do a lot: ``ADD`` of an address downloads as root, a comment in the first lines
replaces the parser, ``RUN --mount`` and ``COPY --from`` read other images, a here document is a
shell script. So every line must match one of the forms below exactly, in the order of kiln's own
Dockerfiles. What remains is the images' own installer, in a build container without a network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kiln.core.untrusted import MalformedError, parse_json

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


#: The folder of what an installer reads; it is there during the build only.
INPUTS = "/build"

_ROOTFS = "ADD rootfs.tar /"
_REMOVAL = f'RUN ["/bin/rm", "-rf", "{INPUTS}"]'


@dataclass(frozen=True)
class Step:
    """One program that a build runs: its command, environment settings and working folder."""

    command: tuple[str, ...]
    environment: dict[str, str]
    folder: str


@dataclass(frozen=True)
class Recipe:
    """What a Dockerfile of kiln's says, for a build in one container.

    Attributes:
        rootfs: whether the image starts from ``rootfs.tar``; otherwise from its parent.
        copies: what :data:`INPUTS` holds: name in the build context, and place below the folder.
        steps: the programs to run, in order.
        environment, command, folder: the image's settings, where the Dockerfile has them.
    """

    rootfs: bool
    copies: tuple[tuple[str, str], ...] = ()
    steps: tuple[Step, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] | None = None
    folder: str | None = None

    def settings(self, parent: Mapping[str, Any]) -> dict[str, Any]:
        """Return the image's ``Env``, ``Cmd`` and ``WorkingDir``, given those of its parent."""
        inherited = dict(setting.split("=", 1) for setting in parent.get("Env") or ())
        return {
            "Env": [f"{k}={v}" for k, v in {**inherited, **self.environment}.items()],
            "Cmd": parent.get("Cmd") if self.command is None else list(self.command),
            "WorkingDir": parent.get("WorkingDir") if self.folder is None else self.folder,
        }


def read(text: bytes | str, *, parent: bool) -> Recipe | None:
    """Read a Dockerfile of kiln's own kind.

    Its kind: every ``COPY`` goes into :data:`INPUTS`, and the last instruction that changes files
    removes that folder. For any other Dockerfile the result is None.
    """
    try:
        instructions = check(text, parent=parent)
    except MalformedError:
        return None
    changing = [line for line in instructions if line.startswith(("ADD", "COPY", "RUN"))]
    first = [] if parent else [_ROOTFS]
    if changing[: len(first)] != first or changing[-1:] != [_REMOVAL]:
        return None
    if changing.count(_ROOTFS) != len(first) or changing.count(_REMOVAL) != 1:
        return None
    recipe: Recipe | None = Recipe(rootfs=not parent)
    for line in instructions:
        if recipe is not None and line not in (_ROOTFS, _REMOVAL):
            recipe = _followed(recipe, line)
    return recipe if recipe is not None and recipe.steps else None


def _followed(recipe: Recipe, line: str) -> Recipe | None:
    """Return the recipe with one more instruction; None if it copies to another place."""
    name, _, rest = line.partition(" ")
    if name == "COPY":
        source, place = rest.split(" ")
        inside = place.removeprefix(f"{INPUTS}/")
        if inside == place or ".." in inside.split("/"):
            return None
        return replace(recipe, copies=(*recipe.copies, (source, inside)))
    if name == "RUN":
        step = Step(_words(line), dict(recipe.environment), recipe.folder or "/")
        return replace(recipe, steps=(*recipe.steps, step))
    if name == "ENV":
        pairs = dict(setting.split("=", 1) for setting in rest.split())
        return replace(recipe, environment={**recipe.environment, **pairs})
    if name == "WORKDIR":
        return replace(recipe, folder=rest)
    return replace(recipe, command=_words(line))


def _words(line: str) -> tuple[str, ...]:
    """Return the words of an instruction in JSON's form."""
    return tuple(parse_json(line.partition(" ")[2]))


def check(text: bytes | str, *, parent: bool) -> list[str]:
    """Refuse a Dockerfile with an instruction that kiln's own do not have.

    Args:
        parent: whether the image starts from another one of kiln's; otherwise from nothing.

    Returns:
        Its instructions after the first ones, which are the same in all of ours.

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
    return instructions


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
