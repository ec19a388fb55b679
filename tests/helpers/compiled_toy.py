"""What an NPU's compiler would make of a small file, written by FlatBuffers' own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tflite_files import rewritten

CUSTOM = 32


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
