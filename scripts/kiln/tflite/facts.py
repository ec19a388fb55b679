"""Derive facts about a whole graph: weights, precision, output roles, labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kiln.project.stagecode import stage_module
from kiln.tflite.reading import POSTPROCESS, Graph, TfliteFile, type_name
from kiln.tflite.wording import count

CONVERTERS = ("QUANTIZE", "DEQUANTIZE")
"""Operators that only change how numbers are stored."""

_QUANTISED = ("int8", "uint8", "int16", "int4")
_FLOATS = ("float32", "float16", "bfloat16", "float64")

METADATA_ROLES = {
    "location": "boxes",
    "category": "classes",
    "score": "scores",
    "number of detections": "count",
}
"""Output names that mobile runtimes use for detectors -> kiln's names."""


UNPROVED = "Metadata added by kiln annotate; nothing was compared with a source model."
"""How a description ends that ``kiln annotate`` wrote: it travels with the file."""

NO_PROOF = "none"
"""What is proved of a file whose description ends so."""


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether the tensor's values are in the file."""
    return bool(len(model.buffers[tensor.buffer])) and not tensor.is_variable


def producers(graph: Graph) -> dict[int, int]:
    """Map each tensor to the index of the operator that produces it."""
    return {tensor: i for i, op in enumerate(graph.operators) for tensor in op.outputs}


def stored_constant(file: TfliteFile, graph: Graph, makers: dict[int, int], tensor: int) -> int:
    """Return the constant that ``tensor`` is or is dequantised from; -1 if it is computed."""
    for _ in range(3):
        if tensor < 0:
            return -1
        if is_constant(file.model, graph.tensors[tensor]):
            return tensor
        maker = makers.get(tensor)
        if maker is None or graph.operators[maker].name not in CONVERTERS:
            return -1
        inputs = graph.operators[maker].inputs
        tensor = inputs[0] if inputs else -1
    return -1


# --- weights ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """The constants of one type, or those read by one kind of operator."""

    name: str
    tensors: int
    bytes: int


@dataclass(frozen=True)
class Weights:
    """The constant tensors of all graphs; a buffer that several tensors share counts once."""

    tensors: int
    bytes: int
    by_type: tuple[Share, ...]
    by_operator: tuple[Share, ...]


def weights(file: TfliteFile) -> Weights:
    """Sum up the constants by type, and by the operator that first reads them.

    A constant behind DEQUANTIZE (how float16 files store weights) belongs to the operator that
    reads the result.
    """
    seen: set[int] = set()
    types: Counter[str] = Counter()
    readers: Counter[str] = Counter()
    type_counts: Counter[str] = Counter()
    reader_counts: Counter[str] = Counter()
    for graph in file.graphs:
        first = _first_readers(file, graph)
        for index, tensor in enumerate(graph.tensors):
            if not is_constant(file.model, tensor) or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            size = len(file.model.buffers[tensor.buffer])
            reader = first.get(index, "(read by no operator)")
            types[type_name(tensor)] += size
            readers[reader] += size
            type_counts[type_name(tensor)] += 1
            reader_counts[reader] += 1

    def shares(sizes: Counter[str], counts: Counter[str]) -> tuple[Share, ...]:
        order = sorted(sizes, key=lambda name: (-sizes[name], name))
        return tuple(Share(name, counts[name], sizes[name]) for name in order)

    return Weights(
        len(seen), sum(types.values()), shares(types, type_counts), shares(readers, reader_counts)
    )


def _first_readers(file: TfliteFile, graph: Graph) -> dict[int, str]:
    makers = producers(graph)
    found: dict[int, str] = {}
    converted: dict[int, str] = {}
    for op in graph.operators:
        for tensor in op.inputs:
            source = stored_constant(file, graph, makers, tensor)
            if source >= 0:
                (converted if op.name in CONVERTERS else found).setdefault(source, op.name)
    return {**converted, **found}


# --- precision ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Precision:
    """How the model computes.

    Attributes:
        kind: ``float32``, ``float16 weights``, ``dynamic range``, ``full integer``,
            ``integer with float islands`` or ``not quantised``.
        words: the kind as a sentence.
        islands: the parts of an integer model that compute in floats, each as a count of its
            operators by name, in the order of the graph.
        activations: the type in which most operators of an integer model compute; else "".
    """

    kind: str
    words: str
    islands: tuple[dict[str, int], ...]
    activations: str = ""


def precision(file: TfliteFile) -> Precision:
    """Determine how the model computes, from the types and quantisation of its tensors."""
    integer: Counter[str] = Counter()
    floating = total = 0
    islands: list[dict[str, int]] = []
    constants: Counter[str] = Counter()
    for graph in file.graphs:
        floats: list[int] = []
        between: list[int] = []
        for index, op in enumerate(graph.operators):
            if op.name in CONVERTERS:
                continue
            total += 1
            quantised, is_float = _computes(file, graph, index)
            if quantised:
                integer[quantised] += 1
            else:
                (floats if is_float else between).append(index)
        floating += len(floats)
        islands += _islands(graph, floats, between)
        for tensor in graph.tensors:
            if is_constant(file.model, tensor):
                name = type_name(tensor)
                if name in _FLOATS or tensor.quantization is not None:
                    constants[name] += len(file.model.buffers[tensor.buffer])
    if integer:
        return _integer(integer, islands, floating, total, constants)
    stored = [name for name in _QUANTISED if constants[name]]
    if stored:
        kind, words = "dynamic range", f"dynamic range: {' and '.join(stored)} weights"
        words += ", float32 activations"
    elif constants["float16"]:
        kind, words = "float16 weights", "float16 weights, computed in float32"
    elif constants["bfloat16"]:
        kind, words = "bfloat16 weights", "bfloat16 weights"
    elif floating:
        kind, words = "float32", "float32"
    else:
        kind, words = "not quantised", "no arithmetic on floats or quantised integers"
    return Precision(kind, words, ())


def _integer(
    integer: Counter[str],
    islands: list[dict[str, int]],
    floating: int,
    total: int,
    constants: Counter[str],
) -> Precision:
    types = " and ".join(name for name, _ in integer.most_common())
    activations = integer.most_common(1)[0][0]
    if activations == "int16" and constants["int8"] > constants["int16"]:
        types += ", int8 weights"
    if not floating:
        return Precision("full integer", f"full integer ({types})", (), activations)
    words = (
        f"integer ({types}) with {count(len(islands), 'float island')}: "
        f"float32 in {floating} of {count(total, 'operator')}"
    )
    return Precision("integer with float islands", words, tuple(islands), activations)


def _computes(file: TfliteFile, graph: Graph, index: int) -> tuple[str, bool]:
    """Return the quantised type an operator computes in (or ""), and if it computes in floats."""
    op = graph.operators[index]
    moving = [graph.tensors[t] for t in op.outputs if t >= 0]
    moving += [
        graph.tensors[t]
        for t in op.inputs
        if t >= 0 and not is_constant(file.model, graph.tensors[t])
    ]
    names = [type_name(tensor) for tensor in moving]
    quantised = [
        name
        for name, tensor in zip(names, moving, strict=True)
        if name in _QUANTISED and tensor.quantization is not None
    ]
    return (quantised[0] if quantised else ""), any(name in _FLOATS for name in names)


def _islands(graph: Graph, floats: list[int], between: list[int]) -> list[dict[str, int]]:
    """Group the operators that pass unquantised tensors to each other.

    Operators on plain integers (``between``) belong to an island, but do not make one.
    """
    members = sorted(floats + between)
    group = {index: index for index in members}

    def top(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    made = {tensor: index for index in members for tensor in graph.operators[index].outputs}
    for index in members:
        for tensor in graph.operators[index].inputs:
            if tensor in made:
                low, high = sorted((top(made[tensor]), top(index)))
                group[high] = low
    found: dict[int, Counter[str]] = {}
    for index in floats:
        found.setdefault(top(index), Counter())[graph.operators[index].name] += 1
    return [dict(names) for names in found.values()]


# --- input --------------------------------------------------------------------------------


def picture_size(model: Any) -> tuple[int, int] | None:
    """Return height and width of a model's only input, if it is a batch of colour pictures."""
    graph = model.graph
    if len(graph.inputs) != 1 or graph.inputs[0] < 0:
        return None
    shape = graph.tensors[graph.inputs[0]].shape
    if len(shape) != 4 or shape[3] != 3 or min(shape[1:3]) < 2:
        return None
    return shape[1], shape[2]


# --- roles --------------------------------------------------------------------------------


def graph_roles(file: TfliteFile) -> dict[int, str]:
    """Map output positions to boxes, classes, scores or count, derived from the graph.

    Empty where the model is not a detector of a known form.
    """
    graph = file.graphs[0]
    for op in graph.operators:
        if op.name == POSTPROCESS:
            roles = dict(zip(op.outputs, ("boxes", "classes", "scores", "count"), strict=False))
            return {i: roles[t] for i, t in enumerate(graph.outputs) if t in roles}
    if len(graph.outputs) != 4:
        return {}
    try:
        found = stage_module("tflite.output_roles").derive(file.model, "centernet")
    except stage_module("protocol.failures").StageError:
        return {}
    return {output.position: role for role, output in found.items()}


def metadata_roles(file: TfliteFile) -> dict[int, str]:
    """Map output positions to roles, as the metadata states them."""
    outputs = file.metadata.outputs if file.metadata else ()
    return {
        index: METADATA_ROLES[item.name]
        for index, item in enumerate(outputs)
        if item.name in METADATA_ROLES
    }


def signature_names(file: TfliteFile) -> tuple[dict[int, str], dict[int, str]]:
    """Map tensors to names, for inputs and outputs, by the first signature of the first graph."""
    for signature in file.model.signatures:
        if signature.subgraph == 0:
            return (
                {tensor: name for name, tensor in signature.inputs.items()},
                {tensor: name for name, tensor in signature.outputs.items()},
            )
    return {}, {}


def postprocessing(file: TfliteFile) -> dict[str, Any] | None:
    """Decode the options of ``TFLite_Detection_PostProcess``; ``None`` where there is none."""
    for graph in file.graphs:
        for op in graph.operators:
            if op.name == POSTPROCESS:
                options = op.settings()
                if "use_regular_nms" in options:
                    options["use_regular_nms"] = bool(options["use_regular_nms"])
                names = [name for name in _POSTPROCESS_ORDER if name in options]
                names += [name for name in options if name not in names]
                return {name: options[name] for name in names}
    return None


_POSTPROCESS_ORDER = (
    "max_detections", "max_classes_per_detection", "detections_per_class", "num_classes",
    "nms_score_threshold", "nms_iou_threshold", "use_regular_nms", "y_scale", "x_scale",
    "h_scale", "w_scale",
)  # fmt: skip


# --- labels -------------------------------------------------------------------------------

GAP = "???"
"""The placeholder line for a class that does not exist."""


def looks_like_pbtxt(lines: list[str]) -> bool:
    """Whether a label file is a label map in protobuf's text format, not one name a line."""
    return any(item in "\n".join(lines[:100]) for item in ("item{", "item {")) or any(
        re.match(r"\s*(item\s*[:{<]|id\s*:\s*\d+|(display_)?name\s*:\s*['\"])", line)
        for line in lines[:100]
    )


def iterate_constants(file: TfliteFile, graph: Graph) -> Iterator[int]:
    """Yield the indices of a graph's constant tensors, in the file's order."""
    for index, tensor in enumerate(graph.tensors):
        if is_constant(file.model, tensor):
            yield index
