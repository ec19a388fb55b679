"""Sort the tensors and operators that TensorFlow 2.8's float16 conversion leaves in random order.

A last step of that conversion turns weights into float16: each weight gets a DEQUANTIZE operator
and a new tensor, named ``…_dequantize``, in the order of a hash table that is seeded by the
process's memory layout. So the same conversion gives the same operators and values under different
tensor numbers each time. Later versions work differently, and their output is not changed.
"""

from __future__ import annotations

import functools
from typing import Any

_SUFFIX = b"_dequantize"
_ALIGNMENT = 16  # bytes, of a buffer: required by schema.fbs (force_align)


def canonical(data: bytes) -> bytes:
    """Renumber the dequantised weights of a model, and dequantise them, in order of use.

    Args:
        data: a ``.tflite`` file as the converter returned it.

    Returns:
        ``data`` itself if it has no such weights; else a file with the same graph in which every
        weight is dequantised directly before the first operator that reads it.
    """
    if _SUFFIX not in data:
        return data
    schema = schema_module()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    changed = False
    for number, graph in enumerate(model.subgraphs):
        makers = {
            int(op.outputs[0]): op
            for op in graph.operators
            if kinds[op.opcodeIndex] == schema.BuiltinOperator.DEQUANTIZE
            and graph.tensors[op.outputs[0]].name.endswith(_SUFFIX)
        }
        if makers:
            _renumber(model, number, _sort(graph, makers))
            changed = True
    return packed(model, data) if changed else data


def schema_module() -> Any:
    """Return TensorFlow's generated classes of schema.fbs; outside of images LiteRT's."""
    try:
        from tensorflow.lite.python import schema_py_generated as schema
    except ImportError:
        from ai_edge_litert import schema_py_generated as schema
    return schema


def packed(model: Any, data: bytes) -> bytes:
    """Return a changed model as a file.

    Args:
        model: of the generated class ``ModelT``.
        data: the file that it was read from.
    """
    import flatbuffers

    schema = schema_module()
    for buffer in model.buffers:
        buffer.Pack = functools.partial(_pack_buffer, schema, buffer.data)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), data[4:8])
    return bytes(builder.Output())


def _sort(graph: Any, makers: dict[int, Any]) -> dict[int, int]:
    """Sort the operators that dequantise, and the tensors they make, by order of use.

    Args:
        graph: modified in place.
        makers: tensor -> the operator that makes it.

    Returns:
        Old -> new number of every tensor.
    """
    waiting = dict(makers)
    ids = {id(op) for op in makers.values()}
    operators: list[Any] = []
    for op in graph.operators:
        if id(op) not in ids:
            for tensor in map(int, op.inputs):
                if tensor in waiting:
                    operators.append(waiting.pop(tensor))
            operators.append(op)
    operators += [op for _, op in sorted(waiting.items())]  # read by no operator
    graph.operators = operators
    used = [int(op.outputs[0]) for op in operators if id(op) in ids]
    order = [old for old in range(len(graph.tensors)) if old not in makers] + used
    graph.tensors = [graph.tensors[old] for old in order]
    return {old: new for new, old in enumerate(order)}


def _renumber(model: Any, number: int, new: dict[int, int]) -> None:
    graph = model.subgraphs[number]
    for holder in (graph, *graph.operators):
        for field in ("inputs", "outputs", "intermediates"):
            tensors = getattr(holder, field, None)
            if tensors is not None:
                # -1: an optional input that is left out
                setattr(holder, field, [new.get(int(tensor), -1) for tensor in tensors])
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == number:
            for item in (*(signature.inputs or []), *(signature.outputs or [])):
                item.tensorIndex = new[item.tensorIndex]


def _pack_buffer(schema: Any, data: Any, builder: Any) -> Any:
    """Pack like the generated code, but aligned: runtimes read weights in place."""
    vector = None
    if data is not None:
        raw = bytes(bytearray(data))
        builder.StartVector(1, len(raw), _ALIGNMENT)
        builder.head = builder.Head() - len(raw)
        builder.Bytes[builder.Head() : builder.Head() + len(raw)] = raw
        vector = builder.EndVector()
    schema.BufferStart(builder)
    if vector is not None:
        schema.BufferAddData(builder, vector)
    return schema.BufferEnd(builder)
