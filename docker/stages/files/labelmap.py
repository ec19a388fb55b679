"""Read an Object Detection API label map (``.pbtxt``) without TensorFlow or protobuf.

The format is protobuf's text format of ``StringIntLabelMap``: ``item`` blocks with ``id``,
``name`` and ``display_name``. The parser accepts what protobuf's own does (both kinds of quotes,
escapes, adjacent strings, comments, ``,`` or ``;`` between fields, ``item {`` or ``item: <``)
and skips every other field of an item, nested blocks (keypoints) included. An item for the
background, id 0, is left out. A plain list of names is understood as well
(:mod:`stages.files.label_list`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Optional

from stages.files import label_list
from stages.files.label_list import GAP
from stages.protocol.failures import StageError

__all__ = ["GAP", "Fit", "LabelItem", "LabelMap", "fit", "lines", "load", "parse"]

_MAX_BYTES = 16 * 1024 * 1024  # the largest public maps (thousands of classes) stay below 1 MB
_MAX_ID = 1_000_000  # a label file has a line for every id: a typing error must not fill a disk

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\#[^\n]*)
      |(?P<newline>\n)
      |(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      |(?P<word>[A-Za-z0-9_.+\-/]+)
      |(?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:[xX]([0-9A-Fa-f]{1,2})|([0-7]{1,3})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))",
    re.DOTALL,
)
_SIMPLE_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v",
    "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
_CLOSING = {"{": "}", "<": ">", "[": "]"}
_BACKGROUND = "background"  # the only name that the API allows for id 0
_SHOWN = 4  # classes that a warning names
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16, which Windows calls Unicode


@dataclass(frozen=True)
class LabelItem:
    """One class: ``id`` counts from 1; ``line`` is where its block starts."""

    id: int
    name: str
    display_name: str
    line: int

    @property
    def label(self) -> str:
        """The name to show: ``display_name`` or, where there is none, ``name``."""
        return self.display_name or self.name


@dataclass(frozen=True)
class LabelMap:
    """The classes of a label map file.

    Attributes:
        items: in the order of the file; at least one.
        note: how a file in another form was understood; empty for a label map.
    """

    items: list[LabelItem]
    note: str = ""


@dataclass(frozen=True)
class Fit:
    """The label lines of a model, from a label map that belongs to it.

    Attributes:
        lines: one name a line, line index = class id - 1.
        warnings: what label map and model do not have in common, in whole sentences.
    """

    lines: list[str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def load(path: Path, num_classes: Optional[int] = None) -> LabelMap:
    """Read a label map file, or a plain list of names.

    Args:
        path: the file.
        num_classes: how many classes the model scores, if that is known: a plain list has to have
            as many.

    Raises:
        StageError: kind ``label-map``; the file cannot be read, or is of another kind.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise StageError(
            "label-map",
            f"The label map {path.name} cannot be read: {error.strerror}.",
            "Name an existing .pbtxt file.",
        ) from error
    if len(data) > _MAX_BYTES:
        raise StageError(
            "label-map",
            f"{path.name} is larger than {_MAX_BYTES} bytes: not a label map.",
            "Name the .pbtxt file that the model was trained with.",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        kind = "in UTF-16, not" if data.startswith(_BYTE_ORDER_MARKS) else "not a text file"
        raise StageError(
            "label-map",
            f"{path.name}, line {line}: {kind} in UTF-8.",
            "Name the label map (.pbtxt); if this is it, save it as UTF-8.",
        ) from error
    if label_list.is_label_map(text):
        return LabelMap(parse(text, path.name))
    names = label_list.names(text, path.name)
    return _listed(names, label_list.without_background(names, num_classes, path.name), path.name)


def _listed(names: Sequence[str], classes: Sequence[str], source: str) -> LabelMap:
    if set(classes) <= {GAP}:
        raise StageError("label-map", f"{source} names no class.", label_list.EXAMPLE)
    items = [
        LabelItem(number, name, "", number + len(names) - len(classes))
        for number, name in enumerate(classes, 1)
        if name != GAP or number == len(classes)  # the last line counts the classes
    ]
    note = f"the label map is a plain list of names: taken as classes 1 to {len(classes)}"
    if len(classes) < len(names):
        note += f", without its first line {names[0]!r}"
    return LabelMap(items, note)


def parse(text: str, source: str = "label map") -> list[LabelItem]:
    """Parse the items of a label map, in the order of the text, without the background's.

    Args:
        text: the label map.
        source: its name for messages.

    Raises:
        StageError: kind ``label-map``, with the line: a syntax error, an item without id or
            without any name, an item inside another, an id below 1 that is not the background's,
            an id used twice, or no item at all.
    """
    return _Parser(text, source).items()


def lines(items: list[LabelItem], num_classes: int, source: str = "label map") -> list[str]:
    """Return the lines of :func:`fit`."""
    return fit(items, num_classes, source).lines


def fit(items: list[LabelItem], num_classes: int, source: str = "label map") -> Fit:
    """Return the lines of the label file: one name a line, line index = class id - 1.

    Ids that the map leaves out get :data:`GAP` (COCO: 80 names on 90 lines). The highest id is
    the number of classes where a training was set up with care. Both a class too many and
    ``num_classes`` too high train without complaint, so a map that differs is only refused where
    it must be another model's: where most of its classes are not the model's, or most of the
    model's classes are not in it.

    Args:
        items: of the label map.
        num_classes: how many classes the model scores.
        source: the label map's name for messages.

    Raises:
        StageError: kind ``label-map``; the map belongs to a model with another class count.
    """
    highest = max(item.id for item in items)
    names = {item.id: item.label for item in items}
    found = [names.get(index + 1, GAP) for index in range(num_classes)]
    if highest == num_classes:
        return Fit(found)
    above = sorted((item for item in items if item.id > num_classes), key=lambda item: item.id)
    within = len(items) - len(above)
    differs = (
        f"{source} has {len(items)} item{_s(len(items))} with ids up to {highest}, but the model "
        f"has {num_classes} class{_es(num_classes)}"
    )
    remedy = "It looks like another model's: use the label map that the model was trained with."
    if len(above) > within:
        edit = f" If it is this one, take out the items with ids above {num_classes}."
        raise StageError(
            "label-map",
            f"{differs}: {len(above)} of the items could never be found.",
            remedy + (edit if within else ""),
        )
    if not above and 2 * within < num_classes:
        raise StageError(
            "label-map",
            f"{differs}: {num_classes - within} of them would have no name.",
            f"{remedy} If it is this one, add to its end: "
            f"item {{ id: {num_classes} name: '{GAP}' }}",
        )
    if above:
        return Fit(found, (_never_found(above, within, names, num_classes),))
    nameless = [str(number) for number in range(highest + 1, num_classes + 1)]
    return Fit(
        found,
        (
            f"the model has {num_classes} classes, but the label map's highest id is {highest}: "
            f"class{_es(len(nameless))} {_some(nameless)} will be shown as {GAP}.",
        ),
    )


def _never_found(
    above: list[LabelItem], within: int, names: dict[int, str], num_classes: int
) -> str:
    text = (
        f"the model has {num_classes} class{_es(num_classes)}, so it can never find "
        f"{_some([f'{item.label[:40]!r} (id {item.id})' for item in above])} of the label map."
    )
    nameless = [str(number) for number in range(1, num_classes + 1) if number not in names]
    if nameless:
        text += f" Class{_es(len(nameless))} {_some(nameless)} will be shown as {GAP}."
    if within + len(above) == num_classes:
        text += (
            f" If the training numbered its classes 1 to {num_classes} without a gap, the names "
            "are wrong: number them so in the label map."
        )
    return text


def _some(words: list[str]) -> str:
    more = len(words) - _SHOWN
    if more > 1:
        return f"{', '.join(words[:_SHOWN])} and {more} more"
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _es(count: int) -> str:
    return "" if count == 1 else "es"


class _Parser:
    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.tokens = self._scan(text)
        self.position = 0

    def items(self) -> list[LabelItem]:
        found: list[LabelItem] = []
        first_use: dict[int, int] = {}
        while self._peek().kind != "end":
            token = self._next()
            if token.kind == "mark" and token.text in ",;":
                continue
            if token.kind != "word" or token.text != "item":
                self._fail(token, f"expected 'item {{', found {_shown(token)}")
            item = self._item(token)
            if item.id == 0:
                continue
            if item.id in first_use:
                self._fail(token, f"id {item.id} was already used in line {first_use[item.id]}")
            first_use[item.id] = token.line
            found.append(item)
        if not found:
            self._fail(self._peek(), "there is no 'item' of a class in it: not a label map")
        return found

    def _item(self, start: _Token) -> LabelItem:
        closing = self._open_block(start)
        values: dict[str, str] = {}
        item_id: Optional[int] = None
        id_token = start
        while True:
            token = self._next()
            if token.kind == "mark" and token.text == closing:
                break
            if token.kind == "mark" and token.text in ",;":
                continue
            if token.kind == "mark" and token.text == "[":  # an extension: [some.name]: value
                self._skip_block(token)
            elif token.kind == "string":
                self._fail(token, f"found {_shown(token)}; names of fields have no quotes: id: 1")
            elif token.kind != "word":
                self._fail(token, f"expected a field name or {closing!r}, found {_shown(token)}")
            if token.text == "id":
                if item_id is not None:
                    self._fail(token, "an item has two ids")
                id_token, item_id = token, self._id()
            elif token.text in ("name", "display_name"):
                if token.text in values:
                    self._fail(token, f"an item has two fields {token.text!r}")
                values[token.text] = self._string(token.text)
            elif token.text == "item":
                self._fail_nested(token, start)
            else:
                self._skip_value(token, start)
        if not item_id:  # protobuf's default is 0
            if _BACKGROUND in values.values():
                return LabelItem(0, _BACKGROUND, "", start.line)
            self._fail(
                id_token,
                "an item has no id"
                if item_id is None
                else f"id 0: ids count from 1; 0 is for an item with the name '{_BACKGROUND}' only",
            )
        item = LabelItem(
            item_id, values.get("name", ""), values.get("display_name", ""), start.line
        )
        if not item.label:
            self._fail(start, f"the item with id {item_id} has neither 'display_name' nor 'name'")
        return item

    def _open_block(self, start: _Token) -> str:
        token = self._next()
        if token.kind == "mark" and token.text == ":":
            token = self._next()
        if token.kind != "mark" or token.text not in "{<":
            self._fail(token, f"expected '{{' after {start.text!r}, found {_shown(token)}")
        return _CLOSING[token.text]

    def _id(self) -> int:
        self._colon("id")
        token = self._next()
        text = token.text if token.kind == "word" else ""
        if re.fullmatch(r"[+-]?(0|[1-9][0-9]{0,9})", text):
            value = int(text)
        elif re.fullmatch(r"[+-]?0[xX][0-9A-Fa-f]{1,8}", text):
            value = int(text, 16)
        else:
            self._fail(token, f"an id must be a whole number, found {_shown(token)}")
        if value < 0:
            self._fail(token, f"id {value}: ids count from 1 (0 is the background)")
        if value > _MAX_ID:
            self._fail(token, f"id {value} is above {_MAX_ID}")
        return value

    def _string(self, name: str) -> str:
        self._colon(name)
        token = self._peek()
        if token.kind != "string":
            self._fail(token, f"{name!r} must be a quoted text, found {_shown(token)}")
        parts = bytearray()
        while self._peek().kind == "string":
            parts += self._unescape(self._next())
        try:
            text = parts.decode("utf-8").strip()
        except UnicodeDecodeError:
            self._fail(token, f"{name!r} is not UTF-8 text")
        if len(text.splitlines()) > 1 or "\0" in text:
            self._fail(token, f"{name!r} does not fit on one line")
        return text

    def _unescape(self, token: _Token) -> bytes:
        body, out, last = token.text[1:-1], bytearray(), 0
        for match in _ESCAPE.finditer(body):
            out += body[last : match.start()].encode("utf-8")
            last = match.end()
            hexadecimal, octal, short, long, simple = match.groups()
            if hexadecimal or octal:
                # Numeric escapes are bytes of the UTF-8 text, not characters.
                code = int(hexadecimal, 16) if hexadecimal else int(octal, 8)
                out.append(code & 0xFF)
            elif short or long:
                code = int(short or long, 16)
                if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                    self._fail(token, f"{match.group()!r} is not a character")
                out += chr(code).encode("utf-8")
            elif simple in _SIMPLE_ESCAPES:
                out += _SIMPLE_ESCAPES[simple].encode("utf-8")
            else:
                self._fail(token, f"unknown escape {match.group()!r}")
        return bytes(out + body[last:].encode("utf-8"))

    def _colon(self, name: str) -> None:
        token = self._next()
        if token.kind != "mark" or token.text != ":":
            self._fail(token, f"expected ':' after {name!r}, found {_shown(token)}")

    def _skip_value(self, name: _Token, item: _Token) -> None:
        colon = self._peek().kind == "mark" and self._peek().text == ":"
        if colon:
            self._next()
        token = self._next()
        if token.kind == "mark" and token.text in (_CLOSING if colon else "{<"):
            self._skip_block(token, item)
        elif not colon or token.kind not in ("word", "string"):
            self._fail(token, f"expected a value for {name.text!r}, found {_shown(token)}")
        while token.kind == "string" and self._peek().kind == "string":
            self._next()

    def _skip_block(self, start: _Token, item: Optional[_Token] = None) -> None:
        # A stack, not recursion: the file decides the nesting depth.
        stack = [_CLOSING[start.text]]
        while stack:
            token = self._next()
            if token.kind == "end":
                self._fail(start, f"the {start.text!r} is never closed")
            if item is not None and token.kind == "word" and token.text == "item":
                self._fail_nested(token, item)
            if token.kind != "mark":
                continue
            if token.text in _CLOSING:
                stack.append(_CLOSING[token.text])
            elif token.text in _CLOSING.values() and token.text != stack.pop():
                self._fail(token, f"unexpected {token.text!r}")

    def _peek(self) -> _Token:
        return self.tokens[self.position]

    def _next(self) -> _Token:
        token = self.tokens[self.position]
        if token.kind != "end":
            self.position += 1
        return token

    def _scan(self, text: str) -> list[_Token]:
        tokens, position, line = [], 0, 1
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                what = "a text that is never closed" if text[position] in "\"'" else "unexpected"
                raise _failure(self.source, line, f"{what}: {text[position : position + 20]!r}")
            position = match.end()
            if match.lastgroup == "newline":
                line += 1
            elif match.lastgroup != "space":
                tokens.append(_Token(str(match.lastgroup), match.group(), line))
        tokens.append(_Token("end", "", line))
        return tokens

    def _fail_nested(self, token: _Token, item: _Token) -> NoReturn:
        # Skipped like another unknown field, its class would have no name.
        self._fail(
            token,
            f"an item inside the item that begins in line {item.line}: its '}}' is missing before",
        )

    def _fail(self, token: _Token, reason: str) -> NoReturn:
        raise _failure(self.source, token.line, reason)


def _shown(token: _Token) -> str:
    return "the end of the file" if token.kind == "end" else repr(token.text[:40])


def _failure(source: str, line: int, reason: str) -> StageError:
    return StageError(
        "label-map",
        f"{source}, line {line}: {reason}.",
        label_list.EXAMPLE,
    )
