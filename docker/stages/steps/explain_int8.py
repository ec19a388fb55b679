"""Stage: measure what each layer of a model loses in int8.

TensorFlow's QuantizationDebugger does it: beside each quantised operator the graph gets the same
operator in float, with the same input. What differs behind the two is this layer's own error, not
that of the layers before it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from stages.protocol.failures import StageError
from stages.saved import output_names
from stages.steps import convert
from stages.tflite import decoding, float_layers, float_tail, tflite_model

ENVIRONMENT = "main"

PARAMS = {name: value for name, value in convert.PARAMS.items() if name != "variant"}

RESULT_FILE = "layers.json"

_VERIFIER = "NumericVerify"
"""The operator that compares: its inputs are the quantised and the float tensor."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Quantise ``inputs["saved_model"]`` as ``convert`` does, and write ``out/layers.json``.

    It is run on the pictures made of ``inputs["images"]`` that it was calibrated on.
    ``layers`` lists layers in the order of execution: ``name`` (as ``float_layers`` takes it),
    ``operator`` (its kind), ``rmse`` (root of the mean squared error), ``max_error`` (both in the
    layer's own unit, means over the pictures), ``scale`` (one step of its output) and
    ``rmse_by_scale`` (0.29 is rounding alone). ``float`` lists the names of layers left in float.

    Returns:
        Facts: ``layers`` (how many were measured), ``pictures`` (on how many).

    Raises:
        StageError: as the stage ``convert``.
    """
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    chosen = {**params, "variant": "int8"}
    converter, _, facts = convert.prepared(tf, chosen, inputs, emit)
    converter._experimental_calibrate_only = True  # noqa: SLF001
    calibrated = convert.converted(converter)
    graph = tflite_model.read(calibrated)
    tail = params["postprocess"] != decoding.NONE
    outputs = output_names.operations(inputs["saved_model"])
    skipped = float_tail.skipped(graph, tail, params["float_layers"], outputs)
    layers = _measured(tf, calibrated, skipped, converter.representative_dataset.input_gen)
    names = float_layers.short_names(graph, outputs)
    found = _described(graph, names, _matched(graph, layers))
    quantised = {item["name"] for item in found}
    pictures = facts["calibration_pictures"]
    result = {
        "layers": found,
        "float": [name for name in names if name not in quantised],
        "pictures": pictures,
    }
    text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
    (out / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    return {"layers": len(found), "pictures": pictures}


def _measured(
    tf: Any, calibrated: bytes, skipped: tuple[list[str], list[str]], pictures: Any
) -> dict[str, dict[str, float]]:
    """Return the statistics of each quantised layer, in the order of execution.

    By the name of the float tensor in the verifying graph: that of the layer's output, often with
    digits behind it.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    names, kinds = skipped
    try:
        verifying = mlir_quantize(
            calibrated, enable_numeric_verify=True, denylisted_nodes=names, denylisted_ops=kinds
        )
        debugger = tf.lite.experimental.QuantizationDebugger(
            quant_debug_model_content=verifying, debug_dataset=pictures
        )
        debugger.run()
    except (RuntimeError, ValueError) as error:
        raise StageError(
            "stage-failed",
            f"TensorFlow's QuantizationDebugger failed: {str(error).strip().splitlines()[0]}",
            "The stage's log holds its whole message.",
        ) from error
    tensors = tflite_model.read(verifying).graph
    found = {}
    for operator in tensors.operators:
        if operator.custom != _VERIFIER:
            continue
        quantised, plain = (tensors.tensors[index] for index in operator.inputs[:2])
        statistics = dict(debugger.layer_statistics[tensors.tensors[operator.outputs[0]].name])
        assert quantised.quantization is not None
        statistics["scale"] = float(quantised.quantization.scale[0])
        found[plain.name] = {name: float(value) for name, value in statistics.items()}
    return found


def _matched(
    graph: tflite_model.Model, measured: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Return statistics by the names of the output tensors in the calibrated graph.

    Both graphs have the same order, so a layer is looked for behind the one before it.
    """
    names = [graph.graph.tensors[operator.outputs[0]].name for operator in graph.graph.operators]
    found, start = {}, 0
    for shown, statistics in measured.items():
        fitting = [
            place
            for place in range(start, len(names))
            if shown.startswith(names[place]) and not shown[len(names[place]) :].strip("0123456789")
        ]
        if fitting:
            # "conv11" is "conv1" rather than "conv", where there are both.
            best = max(fitting, key=lambda place: len(names[place]))
            found[names[best]] = statistics
            start = best + 1
    return found


def _described(
    graph: tflite_model.Model, names: dict[str, str], measured: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    kinds = float_layers.kind_names()
    by_output = {
        graph.graph.tensors[operator.outputs[0]].name: kinds[operator.builtin]
        for operator in graph.graph.operators
    }
    found = []
    for name, whole in names.items():
        if whole not in measured:
            continue
        numbers = measured[whole]
        if not all(math.isfinite(value) for value in numbers.values()):
            raise StageError(
                "unsupported-model",
                f"Layer {name!r} computes values that are not finite.",
                "The model, or its conversion, is damaged: see what `kiln build` says of it.",
            )
        rmse = math.sqrt(numbers["mean_squared_error"])
        found.append(
            {
                "name": name,
                "operator": by_output[whole],
                "rmse": rmse,
                "max_error": numbers["max_abs_error"],
                "scale": numbers["scale"],
                "rmse_by_scale": rmse / numbers["scale"],
            }
        )
    return found
