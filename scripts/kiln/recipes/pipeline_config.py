"""Read the architecture and class count from a ``pipeline.config`` without an image.

The file is protobuf's text format of ``TrainEvalPipelineConfig``. What a conversion needs of it is
held against the Object Detection API's own messages (:mod:`kiln.recipes.pipeline_fields`), so that
a model that cannot be converted is refused before a container starts. The stage reads it again with
protobuf's parser (:mod:`stages.odapi.pipeline`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kiln.core.errors import UnsupportedModelError, error_for_kind
from kiln.project.stagecode import stage_module

_TOKEN = re.compile(
    r"""(?P<skip>[\s,;]+|\#[^\n]*)
      |(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
      |(?P<word>[A-Za-z0-9_.+\-/]+)
      |(?P<mark>[{}<>\[\]:])""",
    re.VERBOSE,
)
_OPENING, _CLOSING = "{<", "}>"
_MAX_BYTES = 4 << 20  # those of the model zoo have 4 kB
_MAX_DEPTH = 100  # protobuf's own limit on nested messages

_REMEDY = "Name the pipeline.config that the model was trained with."
_CORRECT = (
    "Correct braces and quotation marks there, or name the copy of the file that the training left "
    "beside its checkpoints."
)


@contextlib.contextmanager
def told_by_stages(before: str = "") -> Iterator[None]:
    """Turn a failure of stage code into the driver's error of the same kind.

    Args:
        before: put before the message.

    Raises:
        KilnError: the body raised a :class:`stages.protocol.failures.StageError`.
    """
    try:
        yield
    except stage_module("protocol.failures").StageError as error:
        raise error_for_kind(error.kind)(f"{before}{error.message}", error.remedy) from None


class Field(NamedTuple):
    """One field of a message: ``name: value`` or ``name { … }``; values are as written.

    The text of a string is without its quotation marks; of a list in brackets nothing is kept.
    """

    name: str
    value: str | Block
    kind: Literal["word", "string", "block", "list"] = "word"
    line: int = 0


@dataclass(frozen=True)
class Block:
    """One message of the text: its fields in order, with repeats.

    It has the two methods of a protobuf message that :mod:`stages.odapi.pipeline` calls when it
    refuses a model.
    """

    fields: tuple[Field, ...] = ()
    _last: dict[str, Field] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._last.update({item.name: item for item in self.fields})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._last[name].value if name in self._last else Block()
        return int(value) if isinstance(value, str) and value.isdigit() else value

    def __str__(self) -> str:
        return ""  # the text of a field that is absent, as protobuf has it

    def HasField(self, name: str) -> bool:  # noqa: N802 (protobuf's name)
        """Whether the text sets the field."""
        return name in self._last

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802 (protobuf's name)
        """Return the only field of a message that holds one of several."""
        return self.fields[0].name if self.fields else None

    def line(self, name: str) -> int | None:
        """Return the line of a field; ``None`` if the text does not set it."""
        return self._last[name].line if name in self._last else None


class ParseError(ValueError):
    """The text has another form; the message names the token and its line.

    Args:
        partial: what was read so far.
    """

    def __init__(self, message: str, partial: Block) -> None:
        super().__init__(message)
        self.partial = partial


@dataclass(frozen=True)
class Pipeline:
    """The model that a ``pipeline.config`` describes.

    Args:
        meta: the Object Detection API's name of the architecture (``ssd``, ``center_net``).
        extractor: type of the feature extractor; empty if there is none.
        num_classes: number of classes without the background; ``None`` if it is not stated.
        has_size: whether its image resizer has a size; a conversion needs one otherwise.
    """

    meta: str
    extractor: str
    num_classes: int | None
    has_size: bool = True

    @property
    def architecture(self) -> str:
        """Its name in a recipe: EfficientDet is an SSD with an EfficientNet as extractor."""
        if self.meta == "center_net":
            return "centernet"
        return "efficientdet" if "efficientnet" in self.extractor else "ssd"


def read(path: Path) -> Pipeline:
    """Read the model that the ``pipeline.config`` at ``path`` describes; see :func:`described`."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UnsupportedModelError(
            f"{path} cannot be read: {error.strerror or error}.", _REMEDY
        ) from None
    return described(data, str(path))


def described(data: bytes, name: str) -> Pipeline:
    """Read the model that the content of a ``pipeline.config`` describes.

    Args:
        name: the file's name for messages.

    Raises:
        UnsupportedModelError: it is not in protobuf's text format, names no model, or names one
            that cannot be converted (the message says why).
    """
    if len(data) > _MAX_BYTES:
        raise UnsupportedModelError(f"{name} is too large for a pipeline.config.", _REMEDY)
    from kiln.recipes.pipeline_fields import first_fault

    config_text = stage_module("odapi.config_text")
    fault, why = None, ""
    try:
        root = parse(config_text.needed(config_text.decode(data)))
    except UnicodeDecodeError:
        root, why = Block(), "it is not a text file in UTF-8"
    except ParseError as error:
        # A brace too few or too many shows first in a field that is in the wrong block.
        root, why = error.partial, str(error)
    fault = first_fault(root)
    if fault is not None:
        raise UnsupportedModelError(f"{name}, line {fault.line}: {fault.message}", fault.remedy)
    if why:
        raise UnsupportedModelError(
            f"{name} is not a pipeline.config: {why}.", _CORRECT if root.fields else _REMEDY
        )
    return _pipeline(root, name)


def check_size(pipeline: Pipeline, image_size: tuple[int, int] | None) -> None:
    """Refuse a model whose input has no size, neither by its configuration nor by the user.

    Args:
        image_size: that the recipe or the command line sets.

    Raises:
        UnsupportedModelError: it has none.
    """
    if image_size is None and not pipeline.has_size:
        raise UnsupportedModelError(
            "The model's image resizer has no fixed size, and a TFLite file needs one.",
            "Set it with --image-size (export.image_size in a recipe): the size of most images in "
            "its training, as HEIGHTxWIDTH.",
        )


def _pipeline(root: Block, name: str) -> Pipeline:
    from kiln.recipes.pipeline_schema import EXTRACTORS

    stage = stage_module("odapi.pipeline")
    with told_by_stages(f"{name}: "):
        stage.check_architecture(root)
    meta = root.model.WhichOneof("model")
    described = getattr(root.model, meta)
    line = described.feature_extractor.line("type")
    known = {kind: names.split() for kind, names in EXTRACTORS.items()}
    with told_by_stages(f"{name}: " if line is None else f"{name}, line {line}: "):
        stage.check_extractor(root, known)
    with told_by_stages(f"{name}: "):
        stage.check_parts(root)
    classes = described.num_classes
    return Pipeline(
        meta,
        stage.feature_extractor_type(root),
        classes if isinstance(classes, int) else None,
        described.image_resizer.WhichOneof("image_resizer_oneof") in stage.SIZED_RESIZERS,
    )


def parse(text: str) -> Block:
    """Parse the outermost message of protobuf's text format.

    Raises:
        ParseError: the text has another form.
    """
    parser = _Parser(text)
    try:
        parser.run()
    except ValueError as error:
        raise ParseError(str(error), parser.partial()) from None
    return parser.partial()


class _Open(NamedTuple):
    """A block whose end is still to come."""

    name: str
    line: int
    closing: str
    fields: list[Field]


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._open = [_Open("", 0, "", [])]

    def partial(self) -> Block:
        """Return what was read so far; open blocks end here."""
        inner = Block(tuple(self._open[-1].fields))
        for above, block in zip(self._open[-2::-1], self._open[:0:-1], strict=True):
            inner = Block((*above.fields, Field(block.name, inner, "block", block.line)))
        return inner

    def run(self) -> None:
        """Read all of the text.

        Raises:
            ValueError: it has another form.
        """
        kind, word, line = next(self._tokens)
        while kind != "end" or len(self._open) > 1:
            closing, fields = self._open[-1].closing, self._open[-1].fields
            if closing and word == closing:
                block = self._open.pop()
                done = Field(block.name, Block(tuple(block.fields)), "block", block.line)
                self._open[-1].fields.append(done)
                kind, word, line = next(self._tokens)
                continue
            if kind != "word":
                wanted = f"a field or {closing!r}" if closing else "a field"
                raise ValueError(f"{_shown(kind, word)} on line {line}, where {wanted} should be")
            name, start = word, line
            kind, word, line = next(self._tokens)
            colon = word == ":"
            if colon:
                kind, word, line = next(self._tokens)
            if kind == "mark" and word in _OPENING:
                if len(self._open) > _MAX_DEPTH:
                    raise ValueError("its blocks are nested too deeply")
                self._open.append(_Open(name, start, _CLOSING[_OPENING.index(word)], []))
                kind, word, line = next(self._tokens)
            elif colon and word == "[":
                fields.append(Field(name, "", "list", start))
                kind, word, line = self._skip_list()
            elif colon and kind in ("word", "string"):
                value, given = word[1:-1] if kind == "string" else word, kind
                kind, word, line = next(self._tokens)
                while given == kind == "string":  # adjacent strings are one
                    value += word[1:-1]
                    kind, word, line = next(self._tokens)
                fields.append(Field(name, value, "string" if given == "string" else "word", start))
            else:
                raise ValueError(f"{_shown(kind, word)} on line {line}, where a value should be")

    def _skip_list(self) -> tuple[str, str, int]:
        """Skip a list in brackets, which holds nothing needed here; return the token after it."""
        depth = 1
        while depth:
            kind, word, _ = next(self._tokens)
            if kind == "end":
                raise ValueError("a list has no end")
            if kind == "mark":
                depth += (word == "[") - (word == "]")
        return next(self._tokens)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"unexpected {text[at]!r} on line {line}")
        if match.lastgroup != "skip":
            yield str(match.lastgroup), match[0], line
        line += match[0].count("\n")
        at = match.end()
    yield "end", "", line


def _shown(kind: str, word: str) -> str:
    return "the end of the file" if kind == "end" else repr(word)
