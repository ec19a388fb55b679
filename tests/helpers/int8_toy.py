"""A toy detector with an int8 input, as for microcontrollers."""

from __future__ import annotations

from typing import Any

from tflite_files import fixture, rewritten

from stages.tflite import packed_files


def int8_toy(zero_point: int = -1) -> bytes:
    """``toy_ssd_uint8_annotated`` with an input that holds pixels minus 128.

    Args:
        zero_point: of the input; -1 is the right one.
    """
    data = fixture("toy_ssd_uint8_annotated")
    bare, files = packed_files.split(data)

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        image = graph.tensors[graph.inputs[0]]
        assert list(image.quantization.zeroPoint) == [127]
        image.type = 9  # TensorType.INT8
        image.quantization.zeroPoint = [zero_point]

    return packed_files.pack(rewritten(bare, change), files)
