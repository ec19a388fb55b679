"""Read the convolution weights of a TFLite file without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.protocol.failures import StageError

_CONV_2D, _DEPTHWISE_CONV_2D = 3, 4  # BuiltinOperator codes of the TFLite schema
_NUMPY_TYPES = {0: "<f4", 1: "<f2"}  # TensorType codes: FLOAT32, FLOAT16


@dataclass(frozen=True)
class Convolution:
    """One convolution: kernel in Keras's layout, and bias, both float64.

    Attributes:
        kernel: [height, width, in, out], or [height, width, channels, 1] where depthwise.
        bias: [out] (or [channels]).
    """

    kernel: Any
    bias: Any


def read_convolutions(path: Path) -> dict[str, Convolution]:
    """Read every convolution of a TFLite file, by the scope its kernel tensor is named after.

    A kernel tensor's name is one or more node names joined by ``;`` (the converter merges equal
    names), its own first: ``<scope>/Conv2D`` or ``<scope>/BatchNorm/…``. Kernels and biases
    stored as float16 behind a DEQUANTIZE operator are followed through it.

    Raises:
        StageError: the file is not a TFLite model, or holds a convolution this cannot read.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise StageError("checkpoint", f"{path.name} is not a TFLite file.")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
        return _convolutions(model)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StageError(
            "checkpoint", f"{path.name} cannot be read as a convolutional float model: {error!r}"
        ) from error


def _convolutions(model: Any) -> dict[str, Convolution]:
    graph = model.subgraphs[0]
    producers = {output: op for op in graph.operators for output in op.outputs}
    found: dict[str, Convolution] = {}
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        if builtin not in (_CONV_2D, _DEPTHWISE_CONV_2D):
            continue
        name, kernel = _constant(model, graph, producers, op.inputs[1])
        _, bias = _constant(model, graph, producers, op.inputs[2])
        # TFLite: [out, h, w, in], depthwise [1, h, w, channels].
        kernel = kernel.transpose((1, 2, 3, 0))
        scope = name.split(";")[0].rsplit("/", 1)[0]
        scope = scope[: -len("/BatchNorm")] if scope.endswith("/BatchNorm") else scope
        if scope in found:
            raise ValueError(f"two convolutions are named {scope}")
        found[scope] = Convolution(kernel, bias)
    return found


def _constant(model: Any, graph: Any, producers: dict[int, Any], index: int) -> tuple[str, Any]:
    import numpy as np

    if index in producers:
        index = producers[index].inputs[0]
    tensor = graph.tensors[index]
    raw = bytes(bytearray(model.buffers[tensor.buffer].data))
    values = np.frombuffer(raw, dtype=_NUMPY_TYPES[tensor.type]).reshape(tensor.shape)
    return tensor.name.decode("utf-8"), values.astype(np.float64)
