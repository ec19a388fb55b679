"""Put a detector's outputs into another order, and name them in its signature by their roles.

Converters of TensorFlow 2 order outputs by their own rules. Programs written for TensorFlow 1's
files, and some servers of today, read them by position instead: boxes, classes, scores, count.
Only the list of outputs and the signature's names change: every tensor keeps its number, and every
operator and weight stays as it is. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stages.protocol.failures import StageError
from stages.tflite import flatbuffer, output_roles, patching, tflite_model

AS_EXPORTED, TF1 = "tf2", "tf1"
ORDERS: dict[str, Sequence[str]] = {TF1: output_roles.ROLES}
"""Name of an order -> the roles of the outputs, by position. :data:`AS_EXPORTED` changes none."""

_SUBGRAPHS, _SIGNATURES = 2, 7  # slots of Model in TensorFlow's schema.fbs
_OUTPUTS = 2  # of SubGraph
_SIGNATURE_OUTPUTS = 1  # of SignatureDef
_NAME, _TENSOR = 0, 1  # of TensorMap

Outputs = Mapping[str, output_roles.Output]
"""Role -> output, as :func:`stages.tflite.output_roles.derive` returns them."""


def arranged(data: bytes, outputs: Outputs, order: Sequence[str]) -> bytes:
    """Return ``data`` with its outputs in another order.

    Args:
        data: a ``.tflite`` without anything packed behind it.
        outputs: the outputs of its first graph, all of them.
        order: their roles by position.

    Raises:
        StageError: the result is not the same model with another list of outputs (a bug).
    """
    before = tflite_model.read(data)
    tensors = tuple(outputs[role].tensor for role in order)
    if tensors == before.graph.outputs:
        return data
    graph = _root(data).tables(_SUBGRAPHS)[0]
    result = patching.replaced(data, {graph.where(_OUTPUTS): patching.numbers(tensors)})
    first = replace(before.graph, outputs=tensors)
    _check(result, replace(before, subgraphs=(first, *before.subgraphs[1:])))
    return result


def named(data: bytes, outputs: Outputs) -> bytes:
    """Return ``data`` with the outputs of its signatures called by their roles.

    Signatures that return something else than these outputs stay as they are.

    Args:
        data: a ``.tflite`` without anything packed behind it.
        outputs: the outputs of its first graph.

    Raises:
        StageError: the result is not the same model with other names (a bug).
    """
    before = tflite_model.read(data)
    roles = {output.tensor: role for role, output in outputs.items()}
    vectors: dict[int, patching.Vector] = {}
    signatures = []
    for table, signature in zip(_root(data).tables(_SIGNATURES), before.signatures):
        entries = table.tables(_SIGNATURE_OUTPUTS)
        tensors = [entry.number(_TENSOR, "I") for entry in entries]
        fits = signature.subgraph == 0 and sorted(tensors) == sorted(roles)
        if fits and all(entry.where(_NAME) for entry in entries):
            for entry, tensor in zip(entries, tensors):
                vectors[entry.where(_NAME)] = patching.text(roles[tensor])
            signature = replace(signature, outputs={roles[tensor]: tensor for tensor in tensors})
        signatures.append(signature)
    result = patching.replaced(data, vectors) if vectors else data
    _check(result, replace(before, signatures=tuple(signatures)))
    return result


def _root(data: bytes) -> flatbuffer.Table:
    return flatbuffer.root(data, tflite_model.IDENTIFIER, "TFLite model")


def _check(data: bytes, expected: tflite_model.Model) -> None:
    """Read the result and compare it with what it should be."""
    found = tflite_model.read(data)
    if found != expected:
        raise StageError(
            "stage-failed",
            "The model's list of outputs could not be rewritten without changing the model.",
            "This is a bug.",
        )
