"""Read the metadata of a ``.tflite`` file that mobile readers use.

Field slots and enum values are those of tflite-support's ``metadata_schema.fbs`` (identifier
``M001``), stored in the model's metadata entry ``TFLITE_METADATA``; label files are packed
behind the FlatBuffer. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from stages.tflite import flatbuffer, tflite_model

ENTRY = "TFLITE_METADATA"
IDENTIFIER = b"M001"

LOCATION, CATEGORY, SCORE, COUNT = "location", "category", "score", "number of detections"
"""Names that the Task Library and MediaPipe give the four outputs of a detector."""

RAW_BOXES, RAW_SCORES = "raw_boxes", "raw_scores"
"""Names of the outputs of a graph without post-processing (:mod:`stages.tflite.decoding`)."""

LABELLED = (CATEGORY, RAW_SCORES)
"""Names of the outputs that have a label file."""

FILE_TYPES = (
    "unknown", "descriptions", "tensor_axis_labels", "tensor_value_labels",
    "tensor_axis_score_calibration", "vocabulary", "scann_index_file",
)  # fmt: skip
BOX_TYPES = ("unknown", "boundaries", "upper_left", "center")
COORDINATES = ("ratio", "pixel")
COLOR_SPACES = ("unknown", "rgb", "grayscale")
_IMAGE, _BOX = 2, 3  # union ContentProperties
_NORMALIZATION, _THRESHOLD = 1, 3  # union ProcessUnitOptions


@dataclass(frozen=True)
class AssociatedFile:
    """A packed file and its purpose (``type``: one of :data:`FILE_TYPES`)."""

    name: str
    description: str
    type: str


@dataclass(frozen=True)
class BoxFormat:
    """How four numbers describe a box.

    ``index[k]`` is the position, inside the four, of the k-th coordinate of ``type``:
    boundaries are left, top, right, bottom; upper_left is left, top, width, height; center is
    centre x, centre y, width, height. ``coordinates``: ratio of the image, or pixels.
    """

    index: tuple[int, ...]
    type: str
    coordinates: str


@dataclass(frozen=True)
class TensorMeta:
    """The metadata of one input or output.

    ``mean`` and ``std`` are per channel (or one for all), in units of the 0..255 pixel:
    a float input expects (pixel - mean) / std. ``min`` and ``max``: of the tensor's values.
    """

    name: str
    description: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    color_space: Optional[str]
    box: Optional[BoxFormat]
    score_threshold: Optional[float]
    files: tuple[AssociatedFile, ...]


@dataclass(frozen=True)
class Metadata:
    """The metadata of the first graph; ``inputs`` and ``outputs`` in calling order."""

    name: str
    description: str
    version: str
    author: str
    license: str
    min_parser_version: str
    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]
    groups: dict[str, tuple[str, ...]]

    def output(self, name: str) -> int:
        """Return the position of the output called ``name``.

        Raises:
            ValueError: no output, or more than one, has that name.
        """
        found = [index for index, item in enumerate(self.outputs) if item.name == name]
        if len(found) != 1:
            names = ", ".join(repr(item.name) for item in self.outputs)
            raise ValueError(f"the metadata names no single output {name!r} (outputs: {names})")
        return found[0]


def read(model: tflite_model.Model) -> Optional[Metadata]:
    """Read the metadata of a model, or ``None`` where it has none.

    Raises:
        FlatError: the metadata is truncated or damaged (a ValueError).
    """
    data = model.metadata.get(ENTRY)
    return None if data is None else parse(data)


def parse(data: flatbuffer.Bytes) -> Metadata:
    """Parse a metadata buffer.

    Raises:
        FlatError: it is not metadata, or is truncated or damaged (a ValueError).
    """
    top = flatbuffer.root(data, IDENTIFIER, "TFLite metadata buffer")
    subgraphs = top.tables(3)
    if not subgraphs:
        raise flatbuffer.FlatError("TFLite metadata that describes no graph: truncated or damaged")
    graph = subgraphs[0]
    return Metadata(
        name=top.text(0),
        description=top.text(1),
        version=top.text(2),
        author=top.text(4),
        license=top.text(5),
        min_parser_version=top.text(7),
        inputs=tuple(_tensor(table) for table in graph.tables(2)),
        outputs=tuple(_tensor(table) for table in graph.tables(3)),
        groups={table.text(0): tuple(table.texts(1)) for table in graph.tables(8)},
    )


def labels(data: flatbuffer.Bytes, metadata: Metadata) -> list[str]:
    """Return the class names, by class index, as a reader on a device sees them.

    Args:
        data: the whole ``.tflite`` file.
        metadata: its metadata.

    Returns:
        The lines of the label file of the classes' output (without a last empty line), empty
        where no label file is declared.

    Raises:
        ValueError: the file is declared but not packed, or is not UTF-8 text.
    """
    files = [
        item
        for output in metadata.outputs
        if output.name in LABELLED
        for item in output.files
        if item.type in ("tensor_value_labels", "tensor_axis_labels")
    ]
    if not files:
        return []
    packed = tflite_model.packed_files(data)
    if files[0].name not in packed:
        raise ValueError(f"the label file {files[0].name!r} is declared but not in the model")
    try:
        text = packed[files[0].name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the label file {files[0].name!r} is not UTF-8 text") from error
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def output_files(data: flatbuffer.Bytes, metadata: Metadata, name: str) -> dict[str, bytes]:
    """Return the packed files that describe the outputs called ``name``, by name.

    Args:
        data: the whole ``.tflite`` file.
        metadata: its metadata.
        name: of the output.

    Raises:
        ValueError: a file is declared but not packed.
    """
    declared = [
        item.name for output in metadata.outputs if output.name == name for item in output.files
    ]
    if not declared:
        return {}
    return _packed(data, declared)


def input_file(data: flatbuffer.Bytes, metadata: Metadata, name: str) -> Optional[bytes]:
    """Return the content of a file that describes the first input; None where none is declared.

    Args:
        data: the whole ``.tflite`` file.
        metadata: its metadata.
        name: of the file.

    Raises:
        ValueError: the file is declared but not packed.
    """
    declared = {item.name for image in metadata.inputs[:1] for item in image.files}
    if name not in declared:
        return None
    return _packed(data, [name])[name]


def _packed(data: flatbuffer.Bytes, declared: Sequence[str]) -> dict[str, bytes]:
    """Return files that metadata declare, by name.

    Raises:
        ValueError: one is not packed.
    """
    packed = tflite_model.packed_files(data)
    missing = [name for name in declared if name not in packed]
    if missing:
        raise ValueError(f"the file {missing[0]!r} is declared but not in the model")
    return {name: packed[name] for name in declared}


def _name(names: tuple[str, ...], value: int) -> str:
    return names[value] if 0 <= value < len(names) else f"value {value}"


def _tensor(table: flatbuffer.Table) -> TensorMeta:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    threshold = None
    for unit in table.tables(4):
        kind, options = unit.number(0, "B"), unit.table(1)
        if options is None:
            continue
        if kind == _NORMALIZATION:
            mean, std = tuple(options.numbers(0, "f")), tuple(options.numbers(1, "f"))
        elif kind == _THRESHOLD:
            threshold = options.number(0, "f", 0.0)
    color_space, box = _content(table.table(3))
    stats = table.table(5)
    return TensorMeta(
        name=table.text(0),
        description=table.text(1),
        mean=mean,
        std=std,
        min=tuple(stats.numbers(1, "f")) if stats else (),
        max=tuple(stats.numbers(0, "f")) if stats else (),
        color_space=color_space,
        box=box,
        score_threshold=threshold,
        files=tuple(
            AssociatedFile(item.text(0), item.text(1), _name(FILE_TYPES, item.number(2, "b")))
            for item in table.tables(6)
        ),
    )


def _content(content: Optional[flatbuffer.Table]) -> tuple[Optional[str], Optional[BoxFormat]]:
    if content is None:
        return None, None
    kind, properties = content.number(0, "B"), content.table(1)
    if properties is None:
        return None, None
    if kind == _IMAGE:
        return _name(COLOR_SPACES, properties.number(0, "b")), None
    if kind == _BOX:
        return None, BoxFormat(
            index=tuple(properties.numbers(0, "I")) or (0, 1, 2, 3),
            type=_name(BOX_TYPES, properties.number(1, "b")),
            coordinates=_name(COORDINATES, properties.number(2, "b")),
        )
    return None, None
