"""Write the shapes of the outputs of TFLite's detection operator into the file.

Converters do not know the operator, so they leave its outputs without a shape, and an interpreter
finds them when it allocates tensors. Some runtimes take shapes from the file alone: LiteRT's
CompiledModel refuses such a file, or hands out buffers that are too small. The shapes follow from
the operator's options.
"""

from __future__ import annotations

from dataclasses import replace

from stages.protocol.failures import StageError
from stages.tflite import tensor_tables, tflite_model

_MOST = 1_000_000  # detections; models are far below


def written(data: bytes) -> bytes:
    """Return ``data`` with a static shape for each output of the detection operator.

    A file without the operator, or with these shapes, is returned as it is.

    Args:
        data: a ``.tflite`` without anything packed behind it.

    Raises:
        StageError: the operator's options cannot be read, or the result is not the same model with
            other shapes (a bug).
    """
    model = tflite_model.read(data)
    graph = model.graph
    changed: dict[int, tflite_model.Tensor] = {}
    for operator in graph.operators:
        if operator.custom == tflite_model.DETECTION_POSTPROCESS:
            shapes = _shapes(operator)
            for number, shape in zip(operator.outputs, shapes):
                tensor = graph.tensors[number]
                if (tensor.shape, tensor.shape_signature) != (shape, ()):
                    # The operator gives plain floats, whatever else the file says of them.
                    changed[number] = replace(
                        tensor,
                        shape=shape,
                        shape_signature=(),
                        quantization=None,
                        is_variable=False,
                    )
    if not changed:
        return data
    result = tensor_tables.replaced(data, 0, changed)
    tensors = tuple(changed.get(number, tensor) for number, tensor in enumerate(graph.tensors))
    expected = replace(model, subgraphs=(replace(graph, tensors=tensors), *model.subgraphs[1:]))
    if tflite_model.read(result) != expected:
        raise StageError(
            "stage-failed",
            "The shapes of the outputs could not be written without changing the model.",
            "This is a bug.",
        )
    return result


def _shapes(operator: tflite_model.Operator) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of boxes, classes, scores and count (``detection_postprocess.cc``)."""
    rows = _option(operator, "max_detections") * _option(operator, "max_classes_per_detection")
    if not 0 < rows <= _MOST:
        raise _unreadable(f"they make {rows:,} detections")
    return (1, rows, 4), (1, rows), (1, rows), (1,)


def _option(operator: tflite_model.Operator, name: str) -> int:
    from flatbuffers import flexbuffers

    try:
        value = flexbuffers.GetRoot(operator.options).AsMap[name].Value
    except Exception as error:  # of a stranger's bytes, that reader raises many kinds
        raise _unreadable(f"{name} is not among them") from error
    if type(value) is not int:
        raise _unreadable(f"{name} is {value!r}")
    return value


def _unreadable(reason: str) -> StageError:
    return StageError(
        "unsupported-model",
        f"The options of {tflite_model.DETECTION_POSTPROCESS} do not tell how many detections it "
        f"has: {reason}.",
        "Convert the model again; if it was made elsewhere, check the file.",
    )
