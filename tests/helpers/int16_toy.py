"""A toy detector whose activations are in 16 bits, its weights in eight."""

from __future__ import annotations

from typing import Any

from tflite_files import fixture, rewritten

from stages.tflite import packed_files


def int16_toy() -> bytes:
    """``toy_ssd_uint8_annotated`` with int16 in the place of its int8 activations.

    Only the types are changed: it is examined, not run.
    """
    bare, files = packed_files.split(fixture("toy_ssd_uint8_annotated"))
    int8, int16, float32, uint8 = 9, 7, 0, 3

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        for tensor in graph.tensors:
            if tensor.type == int8 and model.buffers[tensor.buffer].data is None:
                tensor.type = int16
        image = graph.tensors[graph.inputs[0]]
        assert image.type == uint8
        image.type = float32

    return packed_files.pack(rewritten(bare, change), files)
