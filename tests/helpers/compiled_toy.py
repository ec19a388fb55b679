"""What an NPU's compiler would make of a small file, written by FlatBuffers' own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tflite_files import rewritten

from stages.tflite import packed_files

CUSTOM, QUANTIZE = 32, 114


def compiled_toy(
    data: bytes,
    call: str = "ethos-u",
    *,
    keeps_metadata: bool = True,
    change: Callable[[Any], None] = lambda model: None,
) -> bytes:
    """``data`` with its second operator called ``call``; packed files are left out.

    Args:
        data: a file whose second operator is a builtin one.
        call: the custom code of the new operator.
        keeps_metadata: as Vela does; else all metadata and signatures are dropped, too.
        change: what else the compiler does.
    """

    def compiled(model: Any) -> None:
        operator = model.subgraphs[0].operators[1]
        code = type(model.operatorCodes[0])()
        code.builtinCode = code.deprecatedBuiltinCode = CUSTOM
        code.customCode, code.version = call.encode(), 1
        model.operatorCodes.append(code)
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.builtinOptionsType, operator.builtinOptions = 0, None
        if not keeps_metadata:
            model.metadata, model.signatureDefs = None, None
        change(model)

    return rewritten(data, compiled)


def quantised_at_once(data: bytes) -> bytes:
    """A file with an integer input, given a float one and a QUANTIZE that makes that integer."""

    def begin(model: Any) -> None:
        graph = model.subgraphs[0]
        code = type(model.operatorCodes[0])()
        code.builtinCode = code.deprecatedBuiltinCode = QUANTIZE
        code.version = 1
        model.operatorCodes.append(code)
        whole = graph.inputs[0]
        tensor = type(graph.tensors[0])()
        tensor.name, tensor.shape, tensor.type = b"given", graph.tensors[whole].shape, 0
        graph.tensors.append(tensor)
        operator = type(graph.operators[0])()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = [len(graph.tensors) - 1], [whole]
        graph.operators.insert(0, operator)
        graph.inputs = [len(graph.tensors) - 1]

    bare, files = packed_files.split(data)
    return packed_files.pack(rewritten(bare, begin), files)
