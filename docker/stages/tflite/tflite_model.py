"""Read a ``.tflite`` file: tensors, operators, signatures, buffers, packed files.

Field slots and enum values are those of TensorFlow's ``schema.fbs`` (identifier ``TFL3``).
Standard library only, so that it runs beside TensorFlow, beside tflite-support and on the host.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from typing import Optional

from stages.tflite import flatbuffer

IDENTIFIER = b"TFL3"

TYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64",
    "int8", "float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4",
)  # fmt: skip
"""Names of the schema's ``TensorType`` values, by value."""

OP_CAST, OP_CUSTOM, OP_DEPTHWISE_CONV_2D, OP_QUANTIZE = 53, 32, 4, 114
"""``BuiltinOperator`` values used here."""

DETECTION_POSTPROCESS = "TFLite_Detection_PostProcess"
"""Custom code of TFLite's own box decoding and non-maximum suppression."""


@dataclass(frozen=True)
class Quantization:
    """Affine quantisation: real = scale * (stored - zero_point), one pair or one a channel."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int


@dataclass(frozen=True)
class Tensor:
    """One tensor. ``shape`` is empty for scalars and where the converter did not know it."""

    name: str
    type: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    buffer: int
    quantization: Optional[Quantization]
    is_variable: bool


@dataclass(frozen=True)
class Operator:
    """One operator: ``builtin`` is the schema's code, ``custom`` the custom code or "".

    ``inputs`` and ``outputs`` are tensor indices (-1: an optional input left out). ``options`` is
    not decoded: it holds a custom operator's data, and is empty for a builtin one.
    """

    builtin: int
    custom: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: bytes


@dataclass(frozen=True)
class Signature:
    """A named way to call the model: name -> tensor index, in the file's order."""

    key: str
    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class Subgraph:
    """One graph; ``inputs`` and ``outputs`` are tensor indices in calling order."""

    name: str
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class Model:
    """A whole file.

    ``buffers`` are views into the data, not copies (empty for tensors computed at run time).
    ``metadata`` maps the names of metadata entries to their bytes, also as views.
    """

    version: int
    description: str
    subgraphs: tuple[Subgraph, ...]
    buffers: tuple[memoryview, ...] = field(repr=False)
    metadata: dict[str, memoryview] = field(repr=False)
    signatures: tuple[Signature, ...]

    @property
    def graph(self) -> Subgraph:
        """The first subgraph, which is the one that is called."""
        return self.subgraphs[0]


def read(data: flatbuffer.Bytes) -> Model:
    """Parse a ``.tflite`` file.

    Args:
        data: the whole file (what follows the FlatBuffer, such as packed files, is ignored).

    Raises:
        FlatError: it is not a TFLite model, or is truncated or damaged (a ValueError).
    """
    top = flatbuffer.root(data, IDENTIFIER, "TFLite model")
    buffers = tuple(_buffer(table) for table in top.tables(4))
    codes = [_code(table) for table in top.tables(1)]
    subgraphs = tuple(_subgraph(table, codes, len(buffers)) for table in top.tables(2))
    if not subgraphs:
        raise flatbuffer.FlatError("a TFLite model without any graph: truncated or damaged")
    metadata = {}
    for table in top.tables(6):
        index = table.number(1, "I")
        if index >= len(buffers):
            raise flatbuffer.FlatError(f"metadata in buffer {index} of {len(buffers)}: damaged")
        metadata[table.text(0)] = buffers[index]
    return Model(
        version=top.number(0, "I"),
        description=top.text(3),
        subgraphs=subgraphs,
        buffers=buffers,
        metadata=metadata,
        signatures=tuple(_signature(table, subgraphs) for table in top.tables(7)),
    )


def packed_files(data: flatbuffer.Bytes) -> dict[str, bytes]:
    """Return the files packed behind the FlatBuffer (a zip archive), in the archive's order.

    Returns:
        Empty where the file ends with the FlatBuffer.

    Raises:
        FlatError: there is an archive, but it cannot be read, or it is compressed (the readers
            on devices only accept stored entries).
    """
    stream = io.BytesIO(data)
    if not zipfile.is_zipfile(stream):
        return {}
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                    raise flatbuffer.FlatError(f"the packed file {info.filename!r} is compressed")
                files[info.filename] = archive.read(info)
    except flatbuffer.FlatError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, RuntimeError) as error:
        # RuntimeError: encrypted entries, unknown zip versions.
        raise flatbuffer.FlatError(
            f"the files packed in the model cannot be read: {error}"
        ) from error
    return files


def _buffer(table: flatbuffer.Table) -> memoryview:
    offset, size = table.number(1, "Q"), table.number(2, "Q")
    if offset > 1:  # models above 2 GB keep their data behind the FlatBuffer; 1 is a placeholder
        if offset + size > len(table.view):
            raise flatbuffer.FlatError(
                f"a buffer at {offset} leaves the data: truncated or damaged"
            )
        return table.view[offset : offset + size]
    return table.raw(0)


def builtin_code(table: flatbuffer.Table) -> int:
    """Read the kind of operator that an ``OperatorCode`` stands for."""
    # Codes above 127 are only in the newer field; older files only have the older one.
    return int(max(table.number(3, "i"), table.number(0, "b")))


def _code(table: flatbuffer.Table) -> tuple[int, str, int]:
    return builtin_code(table), table.text(1), table.number(2, "i", 1)


def _subgraph(
    table: flatbuffer.Table, codes: list[tuple[int, str, int]], buffer_count: int
) -> Subgraph:
    tensors = tuple(_tensor(item) for item in table.tables(0))
    if any(tensor.buffer >= buffer_count for tensor in tensors):
        raise flatbuffer.FlatError("a tensor refers to a missing buffer: damaged")
    operators = tuple(_operator(item, codes) for item in table.tables(3))
    inputs, outputs = table.numbers(1, "i"), table.numbers(2, "i")
    indices = [*inputs, *outputs]
    for operator in operators:
        indices += operator.inputs + operator.outputs
    if any(not -1 <= index < len(tensors) for index in indices) or -1 in outputs:
        raise flatbuffer.FlatError("a graph refers to a missing tensor: damaged")
    return Subgraph(table.text(4), tensors, tuple(inputs), tuple(outputs), operators)


def _tensor(table: flatbuffer.Table) -> Tensor:
    kind = table.number(1, "b")
    return Tensor(
        name=table.text(3),
        type=TYPES[kind] if 0 <= kind < len(TYPES) else f"type {kind}",
        shape=tuple(table.numbers(0, "i")),
        shape_signature=tuple(table.numbers(7, "i")),
        buffer=table.number(2, "I"),
        quantization=_quantization(table.table(4)),
        is_variable=bool(table.number(5, "B")),
    )


def _quantization(table: Optional[flatbuffer.Table]) -> Optional[Quantization]:
    if table is None:
        return None
    scale = tuple(table.numbers(2, "f"))
    if not scale:  # the converter writes an empty table for every float tensor
        return None
    return Quantization(scale, tuple(table.numbers(3, "q")), table.number(6, "i"))


def _operator(table: flatbuffer.Table, codes: list[tuple[int, str, int]]) -> Operator:
    index = table.number(0, "I")
    if index >= len(codes):
        raise flatbuffer.FlatError(f"operator code {index} of {len(codes)}: damaged")
    builtin, custom, version = codes[index]
    return Operator(
        builtin,
        custom,
        version,
        tuple(table.numbers(1, "i")),
        tuple(table.numbers(2, "i")),
        bytes(table.raw(5)),
    )


def _signature(table: flatbuffer.Table, subgraphs: tuple[Subgraph, ...]) -> Signature:
    index = table.number(4, "I")
    if index >= len(subgraphs):
        raise flatbuffer.FlatError(f"a signature of graph {index} of {len(subgraphs)}: damaged")
    count = len(subgraphs[index].tensors)
    maps: list[dict[str, int]] = []
    for slot in (0, 1):
        entries = {item.text(0): item.number(1, "I") for item in table.tables(slot)}
        if any(tensor >= count for tensor in entries.values()):
            raise flatbuffer.FlatError("a signature refers to a missing tensor: damaged")
        maps.append(entries)
    return Signature(table.text(2), index, maps[0], maps[1])
