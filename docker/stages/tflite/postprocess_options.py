"""Change an option of TFLite's detection operator in a converted file.

The converter passes on the options that exporters declare, and those do not know all of them.
"""

from __future__ import annotations

from stages.protocol.failures import StageError
from stages.tflite import flatbuffer, patching, tflite_model

DETECTIONS_PER_CLASS = 100
"""The operator's default (``kNumDetectionsPerClass`` of ``detection_postprocess.cc``)."""

_KEY = "detections_per_class"

_SUBGRAPHS, _OPERATORS, _CUSTOM_OPTIONS = 2, 3, 5  # slots of Model, SubGraph and Operator


def with_detections_per_class(data: bytes, number: int) -> bytes:
    """Return ``data`` with a limit on the detections of one class.

    The operator only heeds it with ``use_regular_nms``.

    Args:
        data: a ``.tflite`` without anything packed behind it.
        number: how many boxes of a class the operator keeps at most.

    Raises:
        StageError: the file has no such operator.
    """
    from flatbuffers import flexbuffers

    model = tflite_model.read(data)
    vectors = {}
    tables = flatbuffer.root(data, tflite_model.IDENTIFIER, "TFLite model").tables(_SUBGRAPHS)
    for graph, table in zip(model.subgraphs, tables):
        for operator, place in zip(graph.operators, table.tables(_OPERATORS)):
            if operator.custom == tflite_model.DETECTION_POSTPROCESS:
                options = {**flexbuffers.Loads(operator.options), _KEY: number}
                content = bytes(flexbuffers.Dumps(options))
                vectors[place.where(_CUSTOM_OPTIONS)] = patching.raw(content)
    if not vectors or 0 in vectors:
        raise StageError(
            "stage-failed",
            f"There is no {tflite_model.DETECTION_POSTPROCESS} with options in the converted file.",
            "This is a bug.",
        )
    return patching.replaced(data, vectors)
