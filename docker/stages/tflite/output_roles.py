"""Derive which output of a detector is which, from the operators that produce it.

The order of a file's outputs is not reliable: TensorFlow 2.5 and 2.6 order the same model
differently, and tensor indices only follow the roles where one operator makes all four. These
sources are used, in this order:

1. an explicit mapping by tensor or signature name;
2. the operator ``TFLite_Detection_PostProcess``, whose four outputs are always boxes, classes,
   scores and count (TensorFlow's ``detection_postprocess.cc``);
3. shapes and producers: boxes are the only [1, N, 4], the count the only single number, and of
   the two [1, N] the classes are the ones cast from whole numbers.

Where the signature's names tell as well, they must agree with 3. The Object Detection API's
CenterNet exporter numbers them (``output_0`` count, ``output_1`` scores, ``output_2`` classes,
``output_3`` boxes); files that kiln finished call them by their roles.

A graph without post-processing has two outputs, raw boxes and raw scores (:func:`derive_raw`).
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from stages.protocol.failures import StageError
from stages.tflite import tflite_model

BOXES, CLASSES, SCORES, COUNT = "boxes", "classes", "scores", "count"
ROLES = (BOXES, CLASSES, SCORES, COUNT)
"""In the order of the outputs of ``TFLite_Detection_PostProcess``."""

RAW_BOXES, RAW_SCORES = "raw_boxes", "raw_scores"
RAW_ROLES = (RAW_BOXES, RAW_SCORES)
"""Roles of the outputs of a graph without post-processing."""

_RAW_SIGNATURE_NAMES = {
    "output_0": RAW_SCORES,  # stages.odapi.raw_outputs
    "output_1": RAW_BOXES,
    **{role: role for role in RAW_ROLES},
}

_SIGNATURE_NAMES = {
    "output_0": COUNT,
    "output_1": SCORES,
    "output_2": CLASSES,
    "output_3": BOXES,
    **{role: role for role in ROLES},
}


@dataclass(frozen=True)
class Output:
    """The output of a role: ``position`` in the model, ``tensor`` index, both names."""

    position: int
    tensor: int
    name: str
    signature_name: str


def derive(
    model: tflite_model.Model,
    architecture: str,
    chosen: Optional[dict[str, str]] = None,
) -> dict[str, Output]:
    """Derive the output of every role.

    Args:
        model: a detector with exactly four outputs.
        architecture: ``ssd`` and ``efficientdet`` end in ``TFLite_Detection_PostProcess``,
            ``centernet`` does not.
        chosen: role -> tensor name or signature output name, overrides the derived roles.

    Returns:
        One entry for each of :data:`ROLES`, in that order.

    Raises:
        StageError: kind ``unsupported-model``; the roles cannot be told apart, or ``chosen``
            does not fit the model.
    """
    outputs = _outputs(model)
    if len(outputs) != len(ROLES):
        raise _unsupported(
            f"it has {len(outputs)} outputs, a detector has 4 (boxes, classes, scores, count)"
        )
    if chosen is not None:
        found = _from_choice(outputs, chosen)
    else:
        operator = _postprocess(model)
        if (operator is not None) != (architecture in ("ssd", "efficientdet")):
            raise _unsupported(
                f"its graph {'ends' if operator else 'does not end'} in "
                f"{tflite_model.DETECTION_POSTPROCESS}, which does not fit the architecture "
                f"{architecture!r}"
            )
        found = (
            _from_shapes(model, outputs) if operator is None else _from_operator(outputs, operator)
        )
    return {role: found[role] for role in ROLES}


def derive_raw(model: tflite_model.Model, anchors: int, classes: int) -> dict[str, Output]:
    """Derive the roles of raw outputs from their names in the signature.

    Args:
        model: a detector without post-processing.
        anchors: how many boxes it has.
        classes: how many scores it has for each.

    Returns:
        One entry for each of :data:`RAW_ROLES`, in that order.

    Raises:
        StageError: kind ``unsupported-model``; names or shapes are others.
    """
    outputs = _outputs(model)
    shapes = {RAW_BOXES: (1, anchors, 4), RAW_SCORES: (1, anchors, classes)}
    found = {_RAW_SIGNATURE_NAMES.get(output.signature_name, ""): output for output in outputs}
    if len(outputs) != len(shapes) or set(found) != set(shapes):
        named = ", ".join(map(_shown, outputs)) or "none"
        raise _unsupported(f"raw boxes and raw scores are not told apart by their names ({named})")
    for role, shape in shapes.items():
        seen = model.graph.tensors[found[role].tensor].shape
        if seen != shape:
            raise _unsupported(f"{role} have the shape {list(seen)}, not {list(shape)}")
    return {role: found[role] for role in RAW_ROLES}


def _outputs(model: tflite_model.Model) -> list[Output]:
    signature_names = {}
    for signature in model.signatures:
        if signature.subgraph == 0:
            signature_names = {tensor: name for name, tensor in signature.outputs.items()}
            break
    graph = model.graph
    return [
        Output(position, tensor, graph.tensors[tensor].name, signature_names.get(tensor, ""))
        for position, tensor in enumerate(graph.outputs)
    ]


def _postprocess(model: tflite_model.Model) -> Optional[tflite_model.Operator]:
    found = [
        operator
        for operator in model.graph.operators
        if operator.custom == tflite_model.DETECTION_POSTPROCESS
    ]
    return found[0] if found else None


def _from_operator(outputs: list[Output], operator: tflite_model.Operator) -> dict[str, Output]:
    by_tensor = {output.tensor: output for output in outputs}
    if len(operator.outputs) != len(ROLES) or set(operator.outputs) != set(by_tensor):
        raise _unsupported(
            f"its outputs are not the outputs of {tflite_model.DETECTION_POSTPROCESS}"
        )
    return {role: by_tensor[tensor] for role, tensor in zip(ROLES, operator.outputs)}


def _from_choice(outputs: list[Output], chosen: dict[str, str]) -> dict[str, Output]:
    if set(chosen) != set(ROLES):
        raise _unsupported(f"'roles' must name an output for each of {', '.join(ROLES)}")
    found = {}
    for role, name in chosen.items():
        matches = [output for output in outputs if name in (output.name, output.signature_name)]
        if len(matches) != 1:
            known = ", ".join(_shown(output) for output in outputs)
            raise _unsupported(f"'roles' calls {role} {name!r}; its outputs are {known}")
        found[role] = matches[0]
    if len({output.tensor for output in found.values()}) != len(ROLES):
        raise _unsupported("'roles' names one output twice")
    return found


def _from_shapes(model: tflite_model.Model, outputs: list[Output]) -> dict[str, Output]:
    tensors = model.graph.tensors
    shapes = {output: tensors[output.tensor].shape for output in outputs}
    boxes = [output for output, shape in shapes.items() if len(shape) == 3 and shape[2] == 4]
    counts = [output for output, shape in shapes.items() if shape in ((), (1,))]
    lists = [output for output, shape in shapes.items() if len(shape) == 2]
    if not (len(boxes) == len(counts) == 1 and len(lists) == 2):
        listed = ", ".join(f"{_shown(output)} {list(shape)}" for output, shape in shapes.items())
        raise _unsupported(
            f"boxes [1, N, 4], classes and scores [1, N] and a count [1] cannot be told apart "
            f"among its outputs: {listed}"
        )
    whole = [output for output in lists if _from_whole_numbers(model, output.tensor)]
    named = {_SIGNATURE_NAMES.get(output.signature_name, ""): output for output in lists}
    if len(whole) == 1:
        classes = whole[0]
    elif set(named) == {CLASSES, SCORES}:
        classes = named[CLASSES]
    else:
        raise _unsupported(
            "classes and scores cannot be told apart: neither of "
            f"{' and '.join(_shown(output) for output in lists)} is cast from whole numbers"
        )
    scores = next(output for output in lists if output is not classes)
    found = {BOXES: boxes[0], CLASSES: classes, SCORES: scores, COUNT: counts[0]}
    for role, output in found.items():
        expected = _SIGNATURE_NAMES.get(output.signature_name, role)
        if expected != role:
            raise _unsupported(
                f"{_shown(output)} looks like the {role}, but its name in the signature makes it "
                f"the {expected}"
            )
    return found


def _from_whole_numbers(model: tflite_model.Model, tensor: int) -> bool:
    """Whether the tensor is cast from an integer type (seen through operators that only move
    or requantise numbers: one first input, one output)."""
    graph = model.graph
    producers = {output: operator for operator in graph.operators for output in operator.outputs}
    for _ in range(8):  # CAST is at most the last operator but one; 8 is generous
        operator = producers.get(tensor)
        if operator is None or len(operator.inputs) == 0 or operator.inputs[0] < 0:
            return False
        source = operator.inputs[0]
        if operator.builtin == tflite_model.OP_CAST:
            return graph.tensors[source].type in ("int32", "int64", "uint32", "int16", "uint16")
        if operator.builtin not in _MOVING or len(operator.outputs) != 1:
            return False
        tensor = source
    return False


_MOVING = frozenset({22, 43, 70, 6, 114})
"""RESHAPE, SQUEEZE, EXPAND_DIMS, DEQUANTIZE, QUANTIZE of the schema's ``BuiltinOperator``."""


def _shown(output: Output) -> str:
    return f"{output.signature_name or output.name!r}"


def _unsupported(reason: str) -> StageError:
    return StageError(
        "unsupported-model",
        f"The outputs of the model are not understood: {reason}.",
        "Check 'architecture', or name the outputs with 'roles'.",
    )
