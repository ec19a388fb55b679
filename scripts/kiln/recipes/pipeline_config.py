"""Read the architecture and class count from a ``pipeline.config`` without an image.

The file is protobuf's text format of ``TrainEvalPipelineConfig``. Only its structure is parsed
(blocks, fields, strings), without the schema: enough to report early that a model cannot be
converted. The stage checks it fully with protobuf's parser (:mod:`stages.odapi.pipeline`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Block:
    """One message of the text: its fields in order, with repeats.

    It has the two methods of a protobuf message that :mod:`stages.odapi.pipeline` calls when it
    refuses an architecture.
    """

    fields: tuple[tuple[str, str | Block], ...] = ()
    _names: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in self.fields:
            self._names[name] = value  # the last of repeats counts, as in protobuf

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._names.get(name, Block())
        return int(value) if isinstance(value, str) and value.isdigit() else value

    def HasField(self, name: str) -> bool:  # noqa: N802 (protobuf's name)
        """Whether the text sets the field."""
        return name in self._names

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802 (protobuf's name)
        """Return the only field of a message that holds one of several."""
        return self.fields[0][0] if self.fields else None


@dataclass(frozen=True)
class Pipeline:
    """The model that a ``pipeline.config`` describes.

    Args:
        meta: the Object Detection API's name of the architecture (``ssd``, ``center_net``).
        extractor: type of the feature extractor; empty if there is none.
        num_classes: number of classes without the background; ``None`` if it is not stated.
    """

    meta: str
    extractor: str
    num_classes: int | None

    @property
    def architecture(self) -> str:
        """Its name in a recipe: EfficientDet is an SSD with an EfficientNet as extractor."""
        if self.meta == "center_net":
            return "centernet"
        return "efficientdet" if "efficientnet" in self.extractor else "ssd"


def read(path: Path) -> Pipeline:
    """Read the model that the ``pipeline.config`` at ``path`` describes.

    Raises:
        UnsupportedModelError: it is not in protobuf's text format, names no model, or names one
            that cannot be converted (the message says why).
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UnsupportedModelError(
            f"{path} cannot be read: {error.strerror or error}.", _REMEDY
        ) from None
    if len(data) > _MAX_BYTES:
        raise UnsupportedModelError(f"{path} is too large for a pipeline.config.", _REMEDY)
    try:
        text = data.decode("utf-8")
        root = parse(text)
    except (UnicodeDecodeError, ValueError) as error:
        why = "it is not a text file in UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise UnsupportedModelError(f"{path} is not a pipeline.config: {why}.", _REMEDY) from None
    return _pipeline(root, path)


def _pipeline(root: Block, path: Path) -> Pipeline:
    stage = stage_module("odapi.pipeline")
    model = root.model if isinstance(root.model, Block) else Block()
    meta = model.WhichOneof("model") or ""
    described = getattr(model, meta) if meta else Block()
    if not isinstance(described, Block):
        raise UnsupportedModelError(f"{path}: {meta} is not a block.", _REMEDY)
    inner = described.feature_extractor
    extractor = inner.type if isinstance(inner, Block) else ""
    extractor = extractor if isinstance(extractor, str) else ""
    # For an SSD the check needs the API's own list of extractors, which only the stage has.
    if meta != "ssd" and (meta not in stage.SUPPORTED or extractor):
        with told_by_stages(f"{path}: "):
            stage.check_architecture(Block((("model", model),)))
    classes = described.num_classes
    return Pipeline(meta, extractor, classes if isinstance(classes, int) else None)


def parse(text: str) -> Block:
    """Parse the outermost message of protobuf's text format.

    Raises:
        ValueError: the text has another form; the message names the token and its line.
    """
    return _block(_tokens(text), None, 0)


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


def _block(tokens: Iterator[tuple[str, str, int]], closing: str | None, depth: int) -> Block:
    if depth > _MAX_DEPTH:
        raise ValueError("its blocks are nested too deeply")
    fields: list[tuple[str, str | Block]] = []
    kind, word, line = next(tokens)
    while True:
        if word == closing or (kind == "end" and closing is None):
            return Block(tuple(fields))
        if kind != "word":
            expected = f"a field or {closing!r}" if closing else "a field"
            raise ValueError(f"{_shown(kind, word)} on line {line}, where {expected} should be")
        name = word
        kind, word, line = next(tokens)
        colon = word == ":"
        if colon:
            kind, word, line = next(tokens)
        if kind == "mark" and word in _OPENING:
            block = _block(tokens, _CLOSING[_OPENING.index(word)], depth + 1)
            fields.append((name, block))
            kind, word, line = next(tokens)
        elif colon and word == "[":
            kind, word, line = _skip_list(tokens)
        elif colon and kind in ("word", "string"):
            value = word[1:-1] if kind == "string" else word
            kind, word, line = next(tokens)
            while kind == "string":  # adjacent strings are one
                value += word[1:-1]
                kind, word, line = next(tokens)
            fields.append((name, value))
        else:
            raise ValueError(f"{_shown(kind, word)} on line {line}, where a value should be")


def _skip_list(tokens: Iterator[tuple[str, str, int]]) -> tuple[str, str, int]:
    """Skip a list in brackets, which holds nothing needed here; return the token after it."""
    depth = 1
    while depth:
        kind, word, _ = next(tokens)
        if kind == "end":
            raise ValueError("a list has no end")
        if kind == "mark":
            depth += (word == "[") - (word == "]")
    return next(tokens)


def _shown(kind: str, word: str) -> str:
    return "the end of the file" if kind == "end" else repr(word)
