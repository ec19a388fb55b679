"""Check that the file is a valid artefact of its kind (gate ``structure``).

Only the file is examined; nothing is run. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from stages.gates.result import Gate
from stages.protocol.failures import StageError
from stages.tflite import decoding, output_roles, tflite_meta, tflite_model

NAME = "structure"

_BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "dynamic": 1, "int8": 1, "int16x8": 1}
_LEAST_SHARE = 0.3
"""A file holds at least this fraction of its model's weights: CenterNet's keypoint heads, the
largest part that an export leaves out, are less than half of a model."""

_MOST_COPIES, _MOST_EXTRA = 6, 1 << 20
"""Largest size of all weights relative to float32, and bytes on top of that: heads that share their
kernels over five or six pyramid levels have separate batch norms on each, and are in the file once
a level, each with its scales multiplied in."""

_WEIGHTS = {
    "float32": "float32", "float16": "float16", "dynamic": "int8", "int8": "int8", "int16x8": "int8"
}  # fmt: skip
"""The type of most bytes of constants, by variant; ``dynamic`` has depthwise weights in float."""

_ACTIVATIONS = {"int8": "int8", "int16x8": "int16"}
"""The type in which most operators with weights compute, by variant; others are not held to one."""

_WEIGHTED = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 9, "TRANSPOSE_CONV": 67}
"""Operators with weights: their numbers in ``BuiltinOperator``."""

_CUSTOM = {tflite_model.DETECTION_POSTPROCESS}
"""Custom operators that every TFLite runtime has."""

_DECODED = {
    # (type, index) of a box format -> how the four numbers [a, b, c, d] are read
    ("boundaries", (1, 0, 3, 2)): "top, left, bottom, right",
    ("boundaries", (0, 1, 2, 3)): "left, top, right, bottom",
}

_FLEX = "Flex"
_MIN_RUNTIME = "min_runtime_version"


@dataclass(frozen=True)
class Expected:
    """The expected properties of the file.

    Args:
        variant: ``float32``, ``float16``, ``dynamic``, ``int8``, ``int16x8`` or ``prebuilt``.
        architecture: ``ssd``, ``efficientdet``, ``centernet`` or ``center_net``.
        height: of the input, in pixels; 0: not known.
        width: of the input, in pixels; 0: not known.
        weights: how many numbers the model's variables hold; None: not known.
        roles: role -> output name, where the graph cannot tell (:mod:`stages.steps.adopt`).
        input_type: of an ``int8`` file that takes raw pixels: ``uint8`` or ``int8``.
        postprocess: ``tflite``, or ``none`` where the outputs are raw boxes and scores.
        plain: the file is as TensorFlow's converter makes it, or was made elsewhere: outputs may
            lack a shape, and depthwise convolutions of ``dynamic`` may have int8 weights.
    """

    variant: str
    architecture: str
    height: int
    width: int
    weights: Optional[int] = None
    roles: Optional[dict[str, str]] = None
    input_type: str = "uint8"
    postprocess: str = decoding.TFLITE
    plain: bool = False


def examine(data: bytes, expected: Expected) -> Gate:
    """Compute the gate's result for the file ``data``."""
    gate = Gate(NAME)
    gate.figures["bytes"] = len(data)
    try:
        model = tflite_model.read(data)
        metadata = tflite_meta.read(model)
        files = tflite_model.packed_files(data)
    except ValueError as error:  # FlatError is one
        gate.problem(
            "unreadable",
            "a TFLite file",
            str(error),
            "The file was cut short or damaged on its way.",
        )
        return gate
    runtime = bytes(model.metadata.get(_MIN_RUNTIME, b"")).split(b"\0")[0]
    gate.figures["min_runtime_version"] = runtime.decode("ascii", "replace") or None
    shape = _input(gate, model, expected)
    if expected.postprocess == decoding.NONE:
        _raw_outputs(gate, data, model, metadata, expected)
    else:
        _outputs(gate, model, metadata, expected)
    _operators(gate, model)
    if expected.variant in _WEIGHTS:
        _weights(gate, model, expected)
    if expected.variant in _ACTIVATIONS:
        _activations(gate, model, _ACTIVATIONS[expected.variant])
    if metadata is None:
        gate.problem(
            "no-metadata",
            "metadata: normalisation, labels, the roles of the outputs",
            "none",
            "The converter's own output was published; it has not been through `annotate`.",
        )
    else:
        gate.figures["min_parser_version"] = metadata.min_parser_version or None
        _label_files(gate, metadata, files)
    gate.summary = f"input {shape}, {len(model.graph.outputs)} outputs, {len(data):,} bytes"
    return gate


def _input(gate: Gate, model: tflite_model.Model, expected: Expected) -> str:
    tensors = [model.graph.tensors[index] for index in model.graph.inputs]
    shown = ", ".join(f"{'x'.join(map(str, t.shape))} {t.type}" for t in tensors) or "none"
    types = ("float32",)
    if expected.variant in ("int8", "prebuilt"):
        # Where channels are normalised differently, a float input takes the place of uint8.
        types = ("int8",) if expected.input_type == "int8" else ("uint8", "float32")
    sized = tuple(expected.height and side for side in (1, expected.height, expected.width, 3))
    wanted = f"one of 1x{expected.height or '?'}x{expected.width or '?'}x3, {' or '.join(types)}"
    good = len(tensors) == 1 and tensors[0].type in types and len(tensors[0].shape) == 4
    if not good or (any(sized) and tensors[0].shape != sized):
        gate.problem(
            "input",
            wanted,
            shown,
            "The export used another image size, or the converter another input type.",
        )
    gate.figures["input"] = shown
    return shown


def _outputs(
    gate: Gate,
    model: tflite_model.Model,
    metadata: Optional[tflite_meta.Metadata],
    expected: Expected,
) -> None:
    types = [model.graph.tensors[index].type for index in model.graph.outputs]
    if types != ["float32"] * 4:
        gate.problem(
            "outputs",
            "four outputs, float32",
            f"{len(types)}: {', '.join(types)}",
            "The graph is no detector with its post-processing, or was converted with quantised "
            "outputs.",
        )
        return
    architecture = "centernet" if expected.architecture == "center_net" else expected.architecture
    try:
        found = output_roles.derive(model, architecture, expected.roles)
    except StageError as error:
        gate.problem(
            "outputs",
            "outputs whose roles the graph tells",
            error.message,
            "The graph was made by an exporter that is not known here.",
        )
        return
    gate.figures["outputs"] = {role: output.position for role, output in found.items()}
    if not expected.plain:
        _static_shapes(gate, model, found)
    if metadata is not None:
        _declared_roles(gate, metadata, found)


def _static_shapes(
    gate: Gate, model: tflite_model.Model, found: dict[str, output_roles.Output]
) -> None:
    """Check that the file states the outputs' shapes: some runtimes take them from nowhere else."""
    shapes = {role: _shape(model.graph.tensors[output.tensor]) for role, output in found.items()}
    rows = shapes[output_roles.SCORES][1:]
    wanted = {
        output_roles.BOXES: (1, *rows, 4),
        output_roles.CLASSES: (1, *rows),
        output_roles.SCORES: (1, *rows),
        # A scalar of an ordinary operator has a shape, and all that there is of it.
        output_roles.COUNT: () if shapes[output_roles.COUNT] == () else (1,),
    }
    if len(rows) != 1 or rows[0] < 1 or shapes != wanted:
        gate.problem(
            "output-shapes",
            "boxes [1, N, 4], classes and scores [1, N], count [1]",
            ", ".join(f"{role} {list(shape)}" for role, shape in shapes.items()),
            "The file has not been through `annotate`, which writes what the converter leaves out.",
        )


def _shape(tensor: tflite_model.Tensor) -> tuple[int, ...]:
    """Return a tensor's shape; a size that may change from call to call is -1."""
    return tensor.shape_signature or tensor.shape


def allocated(gate: Gate, data: bytes, shapes: Sequence[Sequence[int]]) -> None:
    """Compare the shapes that the file states with those of a runtime, in order.

    Args:
        gate: the result of :func:`examine` for ``data``; a problem is added to it.
        data: the file.
        shapes: of its outputs, as an interpreter allocated them.
    """
    graph = tflite_model.read(data).graph
    stated = [list(graph.tensors[index].shape) for index in graph.outputs]
    given = [[int(size) for size in shape] for shape in shapes]
    if stated != given:
        gate.problem(
            "output-shapes",
            f"outputs of the shapes that the interpreter allocates: {given}",
            f"stated in the file: {stated}",
            "The shapes were written for other outputs, or for other options of the detection "
            "operator.",
        )


def _raw_outputs(
    gate: Gate,
    data: bytes,
    model: tflite_model.Model,
    metadata: Optional[tflite_meta.Metadata],
    expected: Expected,
) -> None:
    """Check raw outputs: their types, their roles, and that it is said how to decode them."""
    types = [model.graph.tensors[index].type for index in model.graph.outputs]
    int8 = expected.variant == "int8" and expected.input_type == "int8"
    wanted = "int8" if int8 else "float32"
    if types != [wanted] * len(output_roles.RAW_ROLES):
        gate.problem(
            "outputs",
            f"two outputs, {wanted}: raw boxes and raw scores",
            f"{len(types)}: {', '.join(types)}",
            "The graph was exported with its post-processing, or converted with other outputs.",
        )
        return
    if metadata is None:
        return
    cause = "The description of the raw outputs was not packed, or is another model's."
    try:
        how = decoding.parse(tflite_meta.output_files(data, metadata, tflite_meta.RAW_BOXES))
    except ValueError as error:
        gate.problem("decoding", f"{decoding.FILE}, with its anchors", str(error), cause)
        return
    gate.figures["anchors"], gate.figures["classes"] = how.count, how.classes
    try:
        found = output_roles.derive_raw(model, how.count, how.classes)
    except StageError as error:
        gate.problem(
            "outputs",
            "outputs of the described shapes, called by their roles",
            error.message,
            cause,
        )
        return
    gate.figures["outputs"] = {role: output.position for role, output in found.items()}
    declared = [output.name for output in metadata.outputs]
    if declared != sorted(found, key=lambda role: found[role].position):
        gate.problem(
            "roles-swapped" if sorted(declared) == sorted(found) else "roles",
            f"outputs in the order {', '.join(found)} (from the graph)",
            f"declared as {', '.join(declared)}",
            "The metadata was written for a graph with another order of outputs.",
        )


def _declared_roles(
    gate: Gate, metadata: tflite_meta.Metadata, found: dict[str, output_roles.Output]
) -> None:
    names = {
        output_roles.BOXES: tflite_meta.LOCATION,
        output_roles.CLASSES: tflite_meta.CATEGORY,
        output_roles.SCORES: tflite_meta.SCORE,
        output_roles.COUNT: tflite_meta.COUNT,
    }
    declared = [output.name for output in metadata.outputs]
    right = [""] * len(found)
    for role, output in found.items():
        right[output.position] = names[role]
    if declared != right:
        wrong = [name for name, one in zip(declared, right) if name != one]
        swapped = sorted(wrong) == sorted([tflite_meta.CATEGORY, tflite_meta.SCORE])
        gate.problem(
            "roles-swapped" if swapped else "roles",
            f"outputs in the order {', '.join(right)} (from the graph)",
            f"declared as {', '.join(declared)}",
            "The metadata was written for a graph with another order of outputs: writers that go "
            "by tensor index hand out classes and scores the wrong way round.",
        )
    box = metadata.outputs[found[output_roles.BOXES].position].box if len(declared) == 4 else None
    read_as = _DECODED.get((box.type, box.index)) if box and box.coordinates == "ratio" else None
    if read_as != "top, left, bottom, right":
        swapped = read_as == "left, top, right, bottom"
        gate.problem(
            "boxes-swapped" if swapped else "boxes",
            "boxes declared as top, left, bottom, right, as fractions (what the graph gives)",
            f"declared as {read_as}" if read_as else f"declared as {box}",
            "The metadata leaves the order of a box's sides to the default, which has x before y."
            if swapped
            else "The metadata does not say how boxes are written.",
        )


def _operators(gate: Gate, model: tflite_model.Model) -> None:
    custom = Counter(op.custom for graph in model.subgraphs for op in graph.operators if op.custom)
    gate.figures["operators"] = sum(len(graph.operators) for graph in model.subgraphs)
    gate.figures["custom_operators"] = dict(sorted(custom.items()))
    flex = sorted(name for name in custom if name.startswith(_FLEX))
    other = sorted(set(custom) - _CUSTOM - set(flex))
    if flex:
        gate.problem(
            "flex-operators",
            "TFLite's own operators only",
            ", ".join(flex),
            "The converter was allowed TensorFlow operators (SELECT_TF_OPS); most devices do not "
            "carry that runtime.",
        )
    if other:
        gate.problem(
            "custom-operators",
            f"no custom operator but {', '.join(sorted(_CUSTOM))}",
            ", ".join(other),
            "A runtime needs an extension of its own to run this file.",
        )


def constant_bytes(model: tflite_model.Model) -> dict[str, int]:
    """Count bytes of constants by tensor type; a buffer that several tensors share counts once."""
    found: Counter[str] = Counter()
    seen = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            size = len(model.buffers[tensor.buffer])
            if size and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                found[tensor.type] += size
    return dict(sorted(found.items()))


def _depthwise_bytes(model: tflite_model.Model) -> dict[str, int]:
    """Count bytes of the weights that depthwise convolutions read, by tensor type."""
    found: dict[int, tuple[str, int]] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator.builtin != tflite_model.OP_DEPTHWISE_CONV_2D or len(operator.inputs) < 2:
                continue
            activations, weights = (graph.tensors[index] for index in operator.inputs[:2])
            size = len(model.buffers[weights.buffer])
            if size and activations.type == "float32":
                found[weights.buffer] = (weights.type, size)
    sums: Counter[str] = Counter()
    for kind, size in found.values():
        sums[kind] += size
    return dict(sorted(sums.items()))


def _weights(gate: Gate, model: tflite_model.Model, expected: Expected) -> None:
    held = constant_bytes(model)
    total = counted = sum(held.values())
    gate.figures["constant_bytes"] = held
    wanted = _WEIGHTS[expected.variant]
    if expected.variant == "dynamic" and not expected.plain:
        depthwise = _depthwise_bytes(model)
        gate.figures["depthwise_bytes"] = depthwise
        counted -= depthwise.get("float32", 0)
        if set(depthwise) - {"float32"}:
            gate.problem(
                "depthwise-weights",
                "weights of depthwise convolutions in float32",
                ", ".join(f"{size:,} bytes {kind}" for kind, size in depthwise.items()),
                "The converter's own dynamic-range file was published: runtimes are slow at int8 "
                "weights of depthwise convolutions.",
            )
    if total and held.get(wanted, 0) < counted / 2:
        gate.problem(
            "weights-type",
            f"weights in {wanted}, as variant {expected.variant!r} has them",
            ", ".join(f"{size:,} bytes {kind}" for kind, size in held.items()),
            "The converter did not quantise what it was asked to, or the file is another variant.",
        )
    if expected.weights is None:
        return
    least = _LEAST_SHARE * expected.weights * _BYTES_PER_WEIGHT[expected.variant]
    most = _MOST_COPIES * expected.weights * _BYTES_PER_WEIGHT["float32"] + _MOST_EXTRA
    if not least <= total <= most:
        gate.problem(
            "near-empty" if total < least else "too-large",
            f"{least:,.0f} to {most:,.0f} bytes of constants for {expected.weights:,} weights",
            f"{total:,} bytes",
            "The export kept the graph and lost its weights (a checkpoint that was not restored "
            "leaves constants that fold away)."
            if total < least
            else "Weights are in the file twice, or training state was exported.",
        )


def _activations(gate: Gate, model: tflite_model.Model, wanted: str) -> None:
    """Check that the arithmetic itself was quantised, not the weights alone."""
    numbers = set(_WEIGHTED.values())
    types = Counter(
        model.graph.tensors[operator.outputs[0]].type
        for operator in model.graph.operators
        if operator.builtin in numbers and operator.outputs
    )
    gate.figures["computing"] = dict(sorted(types.items()))
    total = sum(types.values())
    if total and types[wanted] < total / 2:
        gate.problem(
            "activations-type",
            f"most operators with weights computing in {wanted}",
            ", ".join(f"{number} in {kind}" for kind, number in sorted(types.items())),
            "The file is another variant, or too many layers were left in float.",
        )


def _label_files(gate: Gate, metadata: tflite_meta.Metadata, files: dict[str, bytes]) -> None:
    declared = [item.name for output in metadata.outputs for item in output.files]
    # What describes the input (stages.files.feeding) or raw boxes is no label file.
    raw = [output for output in metadata.outputs if output.name == tflite_meta.RAW_BOXES]
    described = {item.name for tensor in (*metadata.inputs, *raw) for item in tensor.files}
    declared = [name for name in declared if name not in described]
    labels = [name for name in files if name not in described]
    if sorted(declared) != sorted(labels) or len(declared) != 1:
        gate.problem(
            "label-file",
            "one label file, declared and packed",
            f"declared: {', '.join(declared) or 'none'}; packed: {', '.join(files) or 'none'}",
            "The label file was not packed into the model, or under another name.",
        )
    gate.figures["packed_files"] = {name: len(content) for name, content in files.items()}
