"""Run a ``.tflite`` file in one runtime, with nothing of kiln's.

    usage: python runner.py KIND MODEL INPUTS OUTPUTS

INPUTS is a ``.npy`` file of input tensors, one behind the other; OUTPUTS becomes a ``.npz`` file
with an array for each output of the graph, in its order. A refusal is the last line of stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Run = Callable[[Any], Sequence[Any]]


def main(kind: str, model: str, inputs: str, outputs: str) -> None:
    """Run the file."""
    run = LOADERS[kind](model)
    answers = [run(values) for values in np.load(inputs)]
    np.savez(outputs, *[np.stack(values) for values in zip(*answers, strict=True)])


def tensorflow(model: str) -> Run:
    """TensorFlow's interpreter, one thread, as applications have it by default."""
    import tensorflow as tf

    return _interpreter(tf.lite.Interpreter(model_path=model, num_threads=1))


def tflite_runtime(model: str) -> Run:
    """The interpreter that was published without TensorFlow."""
    from tflite_runtime.interpreter import Interpreter

    return _interpreter(Interpreter(model_path=model, num_threads=1))


def litert(model: str) -> Run:
    """LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    return _interpreter(Interpreter(model_path=model, num_threads=1))


def _interpreter(made: Any) -> Run:
    made.allocate_tensors()
    (entry,) = made.get_input_details()

    def run(values: Any) -> Sequence[Any]:
        made.set_tensor(entry["index"], values)
        made.invoke()
        return [np.array(made.get_tensor(each["index"])) for each in made.get_output_details()]

    return run


def compiled_model(model: str) -> Run:
    """LiteRT's present API. Its outputs are in the order of the signature, not of the graph."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.interpreter import Interpreter

    made = CompiledModel.from_file(model, hardware_accel=HardwareAccelerator.CPU)
    (signature,) = made.get_signature_list()
    named = list(made.get_output_tensor_details(signature).values())
    wanted = Interpreter(model_path=model).get_output_details()
    places = [[item["name"] for item in named].index(item["name"]) for item in wanted]
    into, out = made.create_input_buffers(0), made.create_output_buffers(0)

    def run(values: Any) -> Sequence[Any]:
        into[0].write(np.ascontiguousarray(values))
        made.run_by_index(0, into, out)
        return [
            out[place].read(int(np.prod(each["shape"])), each["dtype"]).reshape(each["shape"])
            for place, each in zip(places, wanted, strict=True)
        ]

    return run


def openvino(model: str) -> Run:
    """OpenVINO on the CPU, in float32: by itself it may compute in bfloat16."""
    import openvino

    made = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(values: Any) -> Sequence[Any]:
        answer = made([values])
        return [np.array(answer[output]) for output in made.outputs]

    return run


LOADERS: dict[str, Callable[[str], Run]] = {
    "tensorflow": tensorflow,
    "tflite-runtime": tflite_runtime,
    "litert": litert,
    "compiled-model": compiled_model,
    "openvino": openvino,
}

if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # the runtime's own, of many classes
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        sys.exit(1)
