"""The limit on detections of one class, judged by TFLite's own operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tflite_files import fixture, rewritten

from kiln.tflite.facts import postprocessing
from kiln.tflite.reading import load
from stages.protocol.failures import StageError
from stages.tflite.postprocess_options import with_detections_per_class

flexbuffers = pytest.importorskip("flatbuffers.flexbuffers")


def regular(data: bytes) -> bytes:
    """The toy with suppression within each class, written by FlatBuffers' own code."""

    def change(model: Any) -> None:
        operator = model.subgraphs[0].operators[-1]
        options = flexbuffers.Loads(bytes(bytearray(operator.customOptions)))
        operator.customOptions = list(flexbuffers.Dumps({**options, "use_regular_nms": 1}))

    return rewritten(data, change)


def reds(data: bytes) -> int:
    """How many of four red quarters the runtime calls red."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_content=data)
    interpreter.allocate_tensors()
    image = np.full((1, 8, 8, 3), -1, np.float32)
    image[..., 0] = 1
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    answers = interpreter.get_signature_runner()(input=image)
    classes, scores = answers["output_2"][0], answers["output_1"][0]
    return int(np.sum((classes == 0) & (scores > 0.001)))


def test_the_operator_heeds_it() -> None:
    data = regular(fixture("toy_ssd"))
    assert reds(data) == 4
    for number in (1, 3):
        assert reds(with_detections_per_class(data, number)) == number


def test_the_other_options_stay() -> None:
    data = fixture("toy_ssd")
    before, after = (
        postprocessing(load(item)) for item in (data, with_detections_per_class(data, 300))
    )
    assert before is not None
    assert after == {**before, "detections_per_class": 300}


def test_a_graph_without_the_operator() -> None:
    with pytest.raises(StageError, match="TFLite_Detection_PostProcess"):
        with_detections_per_class(fixture("toy_centernet"), 5)
