"""Give a file that an NPU's compiler wrote back what the compiler dropped, and compare the two.

A compiler replaces operators by calls of its own. It must leave everything else that a client sees:
the input, the outputs and their order, the names in the signature. It need not know of metadata:
Arm's Vela keeps their buffer and drops the files packed behind the model; Coral's compiler drops
both. Standard library only, and the compiled file is untrusted: the driver runs this, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from stages.tflite import flatbuffer, metadata_entry, packed_files, tflite_meta, tflite_model


class UnlikeError(ValueError):
    """The compiled file is not a compiled form of the original; the message says why."""


@dataclass(frozen=True)
class Compiled:
    """A compiled file with its metadata.

    Args:
        data: the whole file.
        calls: of operators that the original does not have: their name -> how many there are.
        left: the other operators, by the schema's code and custom code -> how many there are.
        restored: what the compiler had dropped: ``metadata``, names of packed files.
    """

    data: bytes
    calls: Mapping[str, int]
    left: Mapping[tuple[int, str], int]
    restored: tuple[str, ...]


_INTEGERS = ("int8", "uint8", "int16")


def float_inputs(graph: Any) -> list[str]:
    """List the types of the inputs that keep a graph from an NPU, which computes in integers.

    A float input does not where only QUANTIZE operators read it: files with 16-bit activations
    begin so, and int8 files of models whose colour channels are normalised differently.

    Args:
        graph: its ``tensors``, ``inputs`` and ``operators``.
    """
    readers: dict[int, set[int]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            readers.setdefault(index, set()).add(operator.builtin)
    given = [index for index in graph.inputs if index >= 0]
    kinds = {index: graph.tensors[index].type for index in given}
    return [
        kind
        for index, kind in kinds.items()
        if kind not in _INTEGERS and readers.get(index) != {tflite_model.OP_QUANTIZE}
    ]


def finished(original: flatbuffer.Bytes, written: flatbuffer.Bytes) -> Compiled:
    """Add the original's metadata and packed files to a compiled file.

    Args:
        original: the whole file that was compiled.
        written: what the compiler wrote.

    Raises:
        UnlikeError: it is no TFLite model; has other inputs, outputs, signatures, metadata or
            packed files; or nothing in it is compiled.
        FlatError: the original cannot be read.
    """
    bare, files = packed_files.split(original)
    before = tflite_model.read(bare)
    try:
        new, kept = packed_files.split(written)
        after = tflite_model.read(new)
    except flatbuffer.FlatError as error:
        raise UnlikeError(f"it is {error}") from None
    _compare(before, after)
    entry = tflite_meta.ENTRY
    restored = []
    if kept and kept != files:
        raise UnlikeError("it has other packed files")
    if entry in before.metadata and entry not in after.metadata:
        try:
            new = metadata_entry.added(new, entry, bytes(before.metadata[entry]))
        except flatbuffer.FlatError as error:
            raise UnlikeError(f"metadata cannot be added to it: {error}") from None
        restored.append("metadata")
    restored += sorted(set(files) - set(kept))
    data = packed_files.pack(new, files)
    _check(bytes(original), before, data, after)
    calls, left = _operators(before, after)
    return Compiled(data, calls, left, tuple(restored))


def _compare(before: tflite_model.Model, after: tflite_model.Model) -> None:
    """Refuse a model that a client would see as another one."""
    for what in ("inputs", "outputs"):
        mine, theirs = (_ends(model.graph, getattr(model.graph, what)) for model in (before, after))
        if len(mine) != len(theirs):
            raise UnlikeError(f"it has {len(theirs)} {what}, not {len(mine)}")
        for number, (one, other) in enumerate(zip(mine, theirs)):
            for key, value in one.items():
                if other[key] != value:
                    raise UnlikeError(
                        f"{what[:-1]} {number} has the {key} {_shown(other[key])}, "
                        f"not {_shown(value)}"
                    )
    mine, theirs = _signatures(before), _signatures(after)
    if theirs and theirs != mine:
        raise UnlikeError("its signatures name other inputs or outputs")
    entry = tflite_meta.ENTRY
    if entry in after.metadata and after.metadata[entry] != before.metadata.get(entry):
        raise UnlikeError("it has other metadata")


def _ends(graph: tflite_model.Subgraph, tensors: tuple[int, ...]) -> list[dict[str, Any]]:
    if -1 in tensors:
        raise UnlikeError("one of its inputs is left out")
    return [
        {
            "name": graph.tensors[index].name,
            "type": graph.tensors[index].type,
            "shape": list(graph.tensors[index].shape),
            "quantisation": graph.tensors[index].quantization,
        }
        for index in tensors
    ]


def _signatures(model: tflite_model.Model) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """Return each signature of the first graph, with positions of inputs and outputs by name."""
    graph = model.graph
    return {
        item.key: (_positions(item.inputs, graph.inputs), _positions(item.outputs, graph.outputs))
        for item in model.signatures
        if item.subgraph == 0
    }


def _positions(names: Mapping[str, int], tensors: tuple[int, ...]) -> dict[str, int]:
    return {
        name: tensors.index(tensor) if tensor in tensors else -1 for name, tensor in names.items()
    }


def _operators(
    before: tflite_model.Model, after: tflite_model.Model
) -> tuple[dict[str, int], dict[tuple[int, str], int]]:
    own = {operator.custom for graph in before.subgraphs for operator in graph.operators}
    calls: Counter[str] = Counter()
    left: Counter[tuple[int, str]] = Counter()
    for graph in after.subgraphs:
        for operator in graph.operators:
            if operator.builtin == tflite_model.OP_CUSTOM and operator.custom not in own:
                calls[operator.custom] += 1
            else:
                left[operator.builtin, operator.custom] += 1
    if not calls:
        raise UnlikeError("nothing in it is compiled: it has no operator of an NPU")
    return dict(calls), dict(left)


def _check(
    original: bytes, before: tflite_model.Model, data: bytes, compiled: tflite_model.Model
) -> None:
    """Read the finished file as a device would, and compare it with the original.

    Raises:
        UnlikeError: something differs.
    """
    after = tflite_model.read(data)
    same = (after.subgraphs, after.signatures) == (compiled.subgraphs, compiled.signatures)
    used = {tensor.buffer for graph in after.subgraphs for tensor in graph.tensors}
    if not same or any(after.buffers[index] != compiled.buffers[index] for index in used):
        raise UnlikeError("metadata cannot be added to it: its graph would change")
    mine, theirs = _described(original, before), _described(data, after)
    if mine != theirs:
        raise UnlikeError("its labels and metadata cannot be read back")


def _described(
    data: bytes, model: tflite_model.Model
) -> tuple[Optional[tflite_meta.Metadata], list[str], dict[str, bytes]]:
    metadata = tflite_meta.read(model)
    labels = [] if metadata is None else tflite_meta.labels(data, metadata)
    return metadata, labels, tflite_model.packed_files(data)


def _shown(value: Any) -> str:
    if isinstance(value, tflite_model.Quantization):
        return f"scale {list(value.scale)[:4]}, zero point {list(value.zero_point)[:4]}"
    return repr(value)[:100]
