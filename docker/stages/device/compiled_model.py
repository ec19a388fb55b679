"""LiteRT's CompiledModel, behind the part of its Interpreter's interface that detectors use.

CompiledModel is LiteRT's present API. It makes the buffers of outputs from the shapes that the
*file* gives them, before anything has run.
"""

from __future__ import annotations

from typing import Any

from stages.protocol.failures import StageError
from stages.tflite import tflite_model


def load() -> None:
    """Import LiteRT ahead, where processes are forked that use it."""
    import ai_edge_litert.compiled_model
    import ai_edge_litert.interpreter  # noqa: F401


def make(data: bytes, reference_kernels: bool = False, threads: int = 1) -> tuple[Any, str]:
    """Load a file; as :func:`stages.detect.detector.make_interpreter`, which see.

    Args:
        data: the whole ``.tflite`` file.
        reference_kernels: of no effect: it has no others.
        threads: how many.

    Raises:
        StageError: kind ``unsupported-model``; it refuses the file.
    """
    from importlib import metadata

    name = f"ai-edge-litert {metadata.version('ai-edge-litert')}"
    try:
        return CompiledInterpreter(data, threads), name
    except (ValueError, RuntimeError, TypeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError(
            "unsupported-model", f"The model cannot be run: {name} refuses it: {said}."
        ) from error


class CompiledInterpreter:
    """A file in CompiledModel, on the CPU.

    Args:
        data: the whole ``.tflite`` file.
        threads: how many.

    Raises:
        ValueError, RuntimeError, TypeError: it cannot be loaded, or an output has no shape.
    """

    def __init__(self, data: bytes, threads: int = 1) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import Options

        graph = tflite_model.read(data).graph
        self._tensors = graph.tensors
        self._model = CompiledModel.from_buffer(
            data,
            options=Options(
                hardware_accelerators=HardwareAccelerator.CPU,
                cpu_options=CpuOptions(num_threads=threads),
            ),
        )
        signature = next(iter(self._model.get_signature_list()))
        self._inputs = _positions(
            self._model.get_input_tensor_details(signature), graph.inputs, graph
        )
        self._outputs = _positions(
            self._model.get_output_tensor_details(signature), graph.outputs, graph
        )
        for index in graph.outputs:
            if not graph.tensors[index].shape:
                raise ValueError(
                    f"the output {graph.tensors[index].name} has no shape in the file, so there is "
                    "no buffer for it"
                )
        self._in = self._model.create_input_buffers(0)
        self._out = self._model.create_output_buffers(0)

    def get_input_details(self) -> list[dict[str, Any]]:
        """Return ``name``, ``index``, ``shape``, ``dtype`` and ``quantization`` of each input."""
        return [self._detail(index) for index in self._inputs]

    def get_output_details(self) -> list[dict[str, Any]]:
        """Return the same of each output, in the order of the graph."""
        return [self._detail(index) for index in self._outputs]

    def set_tensor(self, index: int, values: Any) -> None:
        """Write an input."""
        import numpy as np

        self._in[self._inputs[index]].write(np.ascontiguousarray(values))

    def invoke(self) -> None:
        """Run the graph."""
        self._model.run_by_index(0, self._in, self._out)

    def get_tensor(self, index: int) -> Any:
        """Read an output, as an array of its type and shape."""
        import numpy as np

        tensor = self._tensors[index]
        size = int(np.prod(tensor.shape))
        values = self._out[self._outputs[index]].read(size, np.dtype(tensor.type))
        return np.asarray(values).reshape(tensor.shape)

    def _detail(self, index: int) -> dict[str, Any]:
        import numpy as np

        tensor = self._tensors[index]
        said = tensor.quantization
        plain = said is not None and len(said.scale) == len(said.zero_point) == 1
        return {
            "name": tensor.name,
            "index": index,
            "shape": tensor.shape,
            "dtype": np.dtype(tensor.type),
            "quantization": (said.scale[0], said.zero_point[0]) if said and plain else (0.0, 0),
        }


def _positions(
    details: dict[str, dict[str, Any]], wanted: tuple[int, ...], graph: tflite_model.Subgraph
) -> dict[int, int]:
    """Map tensors of the graph to the places of their buffers, which are in the signature's order.

    Raises:
        ValueError: one has no buffer.
    """
    places = {detail["name"]: place for place, detail in enumerate(details.values())}
    missing = [index for index in wanted if graph.tensors[index].name not in places]
    if missing:
        raise ValueError(f"it has no buffer for {graph.tensors[missing[0]].name}")
    return {index: places[graph.tensors[index].name] for index in wanted}
