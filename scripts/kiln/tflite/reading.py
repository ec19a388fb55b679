"""Read a ``.tflite`` file as far as possible, for ``kiln inspect`` and ``kiln diff``."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kiln.core import git_lfs
from kiln.core.errors import UnsupportedModelError, UsageError
from kiln.core.untrusted import MalformedError
from kiln.project import bounds
from kiln.project.stagecode import stage_module
from kiln.tflite import flexbuffer, packing
from kiln.tflite.feeding import FEEDING_FILE, Feeding, stated
from kiln.tflite.schema import ENUMS, OPERATORS
from kiln.tflite.tree import Tree

_METADATA_BYTES = 2**28  # parts of the metadata times its size: most work that reading it may take
_MAX_RANK = 64  # kernels take at most eight
_SHARED, _SPARE_BYTES = 16, 1 << 20  # most tensors to share all contents; harmless size
_CUSTOM = OPERATORS.index("CUSTOM")
POSTPROCESS = "TFLite_Detection_PostProcess"


@dataclass(frozen=True)
class Operator:
    """One operator of a graph.

    Attributes:
        name: the schema's name, the custom code, or ``operator N`` where the schema has none.
        kind: ``builtin``, ``custom``, ``select-tf`` (a TensorFlow kernel, code ``Flex…``) or
            ``unknown``.
        version: of the operator, as the file's operator code states it.
        inputs: tensor indices, -1 for an optional one that is left out.
        outputs: tensor indices.
        options: of a builtin operator, by name; "options" is the kind of table.
        custom: a custom operator's options, not decoded.
        extra: every other field of the operator's table.
    """

    name: str
    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]
    custom: bytes
    extra: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return the options to show: of a builtin operator, or decoded from a FlexBuffer.

        Custom options in another format are returned as their bytes.
        """
        if self.kind == "builtin":
            return {name: value for name, value in self.options.items() if name != "options"}
        if not self.custom:
            return {}
        try:
            decoded = flexbuffer.decode(self.custom)
        except flexbuffer.FlexError:
            return {"raw": self.custom}
        return decoded if isinstance(decoded, dict) else {"value": decoded}


@dataclass(frozen=True)
class Graph:
    """One graph: the stage code's view of it, and its operators with names and options."""

    name: str
    tensors: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[Operator, ...]


@dataclass(frozen=True)
class TfliteFile:
    """A whole file.

    Attributes:
        name: what to call it.
        sha256: of all its bytes.
        model: as :class:`stages.tflite.tflite_model.Model`.
        tree: every field of the FlatBuffer.
        graphs: the same graphs as ``model.subgraphs``.
        metadata: as :class:`stages.tflite.tflite_meta.Metadata`, or ``None``.
        packing: what is packed behind the FlatBuffer.
        feeding: how pictures become its input, as the file states it; ``None`` if it does not.
        warnings: problems in parts that the runtime does not need.
    """

    name: str
    data: bytes = field(repr=False)
    sha256: str
    model: Any = field(repr=False)
    tree: Tree = field(repr=False)
    graphs: tuple[Graph, ...] = field(repr=False)
    metadata: Any = field(repr=False)
    packing: packing.Packing = field(repr=False)
    feeding: Feeding | None
    warnings: tuple[str, ...]

    @cached_property
    def labels(self) -> tuple[str, list[str]] | None:
        """Return name and lines of the label file; ``None`` if there is none or it is too large.

        It is the one that the metadata declares for an output; where the metadata declares none,
        the only packed ``.txt`` file. Bytes that are not UTF-8 are replaced.
        """
        declared = [
            item.name
            for output in (self.metadata.outputs if self.metadata else ())
            for item in output.files
            if item.type in ("tensor_value_labels", "tensor_axis_labels")
        ]
        texts = [item.name for item in self.packing.files if item.name.endswith(".txt")]
        names = declared or (texts if len(texts) == 1 else [])
        for item in self.packing.files:
            if not names or item.name != names[0] or item.content is None:
                continue
            if len(item.content) <= bounds.LABELS.most:
                lines = item.content.decode("utf-8", errors="replace").split("\n")
                return item.name, lines[:-1] if lines[-1] == "" else lines
        return None


def load(source: Path | bytes, name: str = "") -> TfliteFile:
    """Read a ``.tflite`` file.

    Args:
        source: where it is, or its bytes.
        name: what to call it; by default the path, or "model".

    Raises:
        UsageError: there is no such file, or it cannot be read.
        UnsupportedModelError: it is not a TFLite model, or is truncated or damaged.
    """
    if isinstance(source, Path):
        shown = name or str(source)
        data = _bytes_of(source, shown)
    else:
        shown, data = name or "model", bytes(source)
    return _parse(data, shown)


def _bytes_of(path: Path, shown: str) -> bytes:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise UsageError(f"{shown} is not a file.", "Name a .tflite file.")
        with path.open("rb") as file:
            head = file.read(8)
            if head[4:8] != b"TFL3":
                if git_lfs.is_pointer(head + file.read(git_lfs.MAX_BYTES)):
                    raise git_lfs.refusal(UnsupportedModelError, shown)
                raise _not_a_model(shown, head, info.st_size)
            most = bounds.ARTEFACT.most
            if info.st_size > most:
                raise UnsupportedModelError(
                    f"{shown} has {info.st_size:,} bytes, more than {most:,}.",
                    "Detectors are much smaller; check that it is the right file.",
                )
            return head + file.read(most)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{shown} cannot be read: {reason}.", "Name a .tflite file.") from error


def _not_a_model(shown: str, head: bytes, size: int) -> UnsupportedModelError:
    looks = {
        b"PK\x03\x04": "a zip archive",
        b"\x1f\x8b": "gzip data",
        b"\x89HDF": "an HDF5 file (Keras weights)",
        b"\x08\x01\x12": "a TensorFlow SavedModel",
    }
    what = next((text for start, text in looks.items() if head.startswith(start)), "")
    if not size:
        what = "an empty file"
    return UnsupportedModelError(
        f"{shown} is not a TFLite model"
        + (f": it looks like {what}." if what else ": the identifier TFL3 is missing."),
        "Name a .tflite file; if it is one, copy or download it again.",
    )


def _parse(data: bytes, shown: str) -> TfliteFile:
    flat = stage_module("tflite.flatbuffer")
    if data[4:8] != b"TFL3":
        raise _not_a_model(shown, data[:8], len(data))
    try:
        tree, model = read_model(data)
    except flat.FlatError as error:
        raise UnsupportedModelError(
            f"{shown} is a TFLite file that cannot be read: {error}.",
            "Copy or download it again; compare its size and SHA-256 with the original's.",
        ) from error
    warnings = [
        f"the file has fields that kiln's schema does not know: {', '.join(sorted(tree.unknown))}"
    ] * bool(tree.unknown)
    metadata = None
    try:
        metadata = read_metadata(model)
    except flat.FlatError as error:
        warnings.append(f"the metadata cannot be read: {error}")
    packed = packing.read(data)
    feeding = None
    try:
        feeding = stated(packed.files)
    except MalformedError as error:
        warnings.append(f"how to feed it cannot be read: {FEEDING_FILE} {error}")
    return TfliteFile(
        name=shown,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        model=model,
        tree=tree,
        graphs=tuple(
            _graph(graph, raw, tree.model)
            for graph, raw in zip(model.subgraphs, tree.model["subgraphs"], strict=True)
        ),
        metadata=metadata,
        packing=packed,
        feeding=feeding,
        warnings=(*warnings, *_packing_warnings(metadata, packed)),
    )


def read_model(data: bytes) -> tuple[Tree, Any]:
    """Read every field of a file, and the stage code's view of it.

    The stage code's reader was made for files of kiln's own stages. It only runs here after a
    check that memory and time stay in proportion to the file's size.

    Raises:
        FlatError: it is not a TFLite model, or is truncated or damaged (a ValueError).
    """
    flat = stage_module("tflite.flatbuffer")
    tree = Tree(data)
    model = stage_module("tflite.tflite_model").read(data)
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    if any(len(tensor.shape) > _MAX_RANK for tensor in tensors):
        raise flat.FlatError(f"a tensor has more than {_MAX_RANK} dimensions: damaged")
    shared = sum(len(model.buffers[tensor.buffer]) for tensor in tensors)
    shared += sum(map(len, model.metadata.values()))
    if shared > _SHARED * len(data) + _SPARE_BYTES:
        raise flat.FlatError("its tensors share their contents over and over: damaged")
    return tree, model


def read_metadata(model: Any) -> Any:
    """Read the metadata of such a file with the stage code's reader; ``None`` without any.

    Raises:
        FlatError: it is truncated or damaged (a ValueError).
    """
    flat = stage_module("tflite.flatbuffer")
    if not _metadata_is_honest(flat, model):
        raise flat.FlatError("its parts refer to each other over and over")
    return stage_module("tflite.tflite_meta").read(model)


def _metadata_is_honest(flat: Any, model: Any) -> bool:
    """Whether reading the metadata takes about as much memory as its size suggests.

    Its parts may be shared; hostile metadata shares them without end. Real metadata has a few
    kilobytes and a dozen parts.
    """
    meta = stage_module("tflite.tflite_meta")
    data = model.metadata.get(meta.ENTRY)
    if data is None:
        return True
    graphs = flat.root(data, meta.IDENTIFIER, "TFLite metadata buffer").raw(3, 4)
    most = _METADATA_BYTES // max(len(data), 1)
    if len(graphs) // 4 > most:
        return False
    parts = 0
    for graph in flat.root(data, meta.IDENTIFIER, "").tables(3)[:1]:
        for slot, inner in ((2, (4, 6)), (3, (4, 6)), (8, (1,))):
            some = len(graph.raw(slot, 4)) // 4
            if some > most:
                return False
            for table in graph.tables(slot):
                parts += 1 + sum(len(table.raw(item, 4)) // 4 for item in inner)
                if parts > most:
                    return False
    return True


def _packing_warnings(metadata: Any, packed: packing.Packing) -> list[str]:
    found = []
    if packed.problem:
        found.append(f"the files packed in the model cannot be read: {packed.problem}")
    found += [f"packed file {item.name}: {item.problem}" for item in packed.files if item.problem]
    found += [
        f"{item.name} has {item.size:,} bytes: too large for labels, and not read"
        for item in packed.files
        if item.name.endswith(".txt") and item.size > bounds.LABELS.most
    ]
    names = {item.name for item in packed.files}
    tensors = (*metadata.inputs, *metadata.outputs) if metadata else ()
    missing = {item.name for tensor in tensors for item in tensor.files} - names
    found += [f"{name} is declared in the metadata, but not packed" for name in sorted(missing)]
    return found


def _graph(graph: Any, raw: dict[str, Any], model: dict[str, Any]) -> Graph:
    codes = model["operator_codes"]
    operators = []
    for parsed, fields in zip(graph.operators, raw["operators"], strict=True):
        code = codes[fields["opcode_index"]]
        name, kind = operator_name(parsed.builtin, code["custom_code"])
        options = fields["builtin_options"] or fields["builtin_options_2"]
        operators.append(
            Operator(
                name,
                kind,
                parsed.version,
                parsed.inputs,
                parsed.outputs,
                options,
                parsed.options,
                {key: value for key, value in fields.items() if key in _EXTRA},
            )
        )
    return Graph(graph.name, graph.tensors, graph.inputs, graph.outputs, tuple(operators))


_EXTRA = ("mutating_variable_inputs", "intermediates", "custom_options_format")


def operator_name(builtin: int, custom: str) -> tuple[str, str]:
    """Return name and kind of an operator code (see :class:`Operator`).

    >>> operator_name(3, ""), operator_name(32, "FlexErf"), operator_name(999, "")
    (('CONV_2D', 'builtin'), ('FlexErf', 'select-tf'), ('operator 999', 'unknown'))
    """
    if builtin == _CUSTOM:
        return custom or "CUSTOM", "select-tf" if custom.startswith("Flex") else "custom"
    if 0 <= builtin < len(OPERATORS):
        return OPERATORS[builtin], "builtin"
    return f"operator {builtin}", "unknown"


def type_name(tensor: Any) -> str:
    """Return the name of a tensor's type, also of types newer than the stage code's list."""
    name = str(tensor.type)
    if name.startswith("type "):
        number = int(name[5:])
        if 0 <= number < len(ENUMS["TensorType"]):
            return ENUMS["TensorType"][number]
    return name


def text_of(data: memoryview) -> str | None:
    """Decode the text in a zero-padded metadata buffer; ``None`` if it is not plain text."""
    raw = bytes(data).rstrip(b"\0")
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() and text else None
