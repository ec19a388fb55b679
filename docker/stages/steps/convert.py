"""Stage: convert an exported SavedModel to one ``.tflite`` file.

Variants: ``float32``; ``float16`` (weights); ``dynamic`` (int8 weights but for depthwise
convolutions, float activations); ``int8`` (weights and activations, measured on representative
images; uint8 or int8 input, float outputs); ``int16x8`` (int8 weights, int16 activations; float
input and outputs). Where the channels are normalised differently, int8 files have a float input:
one in eight bits has one scale, so that raw pixels would be off by tens of pixel values in some
channels.
Outputs are float in all variants: TFLite's detection operator gives nothing else, and a box of a
CenterNet, in eight bits, would have one of 256 positions. Only raw boxes and scores, which need no
operator, are int8 where the input is.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Optional

from stages.files import calibration, feeding, pixels
from stages.files.facts_file import FACTS_FILE
from stages.protocol.failures import StageError
from stages.protocol.model_cache import Kept
from stages.protocol.request import REQUIRED
from stages.saved import output_names
from stages.tflite import (
    decoding,
    dequantize_order,
    float_depthwise,
    float_tail,
    int16x8,
    postprocess_options,
)

ENVIRONMENT = "main"

PARAMS = {
    "variant": REQUIRED,
    # {"mean": [r, g, b], "std": [r, g, b]} in pixel values, as the graph wants them; only
    # CALIBRATED variants use it. None: what the export stage found, which it left inside the
    # SavedModel.
    "normalization": None,
    # How photographs become the input (stages.files.feeding), so that CALIBRATED variants are
    # measured on what they will see. None: as feeding.ASSUMED.
    "feeding": None,
    # What the export stage reports, where the operator suppresses within each class.
    "suppression": None,
    "inference_io": "uint8",  # or "int8": the type of an int8 file's input
    # Of CALIBRATED variants: how many pictures are made of the images
    # (stages.files.calibration). None: one of each.
    "calibration_number": None,
    # Layers and kinds of operators that CALIBRATED variants leave in float
    # (stages.tflite.float_layers).
    "float_layers": [],
    # As in export: "none" is a graph of raw boxes and scores.
    "postprocess": decoding.TFLITE,
    # True: of "dynamic", the weights of depthwise convolutions are int8, too, as the converter's
    # Optimize.DEFAULT has them (stages.tflite.float_depthwise).
    "plain": False,
}

VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8")

CALIBRATED = ("int8", "int16x8")
"""Variants whose activations are measured on representative images."""

_MIN_RUNTIME = "min_runtime_version"
"""Name of the converter's metadata entry: the oldest runtime that knows every operator used."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Convert the folder ``inputs["saved_model"]`` to ``out/model.tflite``.

    Variants of :data:`CALIBRATED` also take ``inputs["images"]``: a folder whose image files
    (:mod:`stages.files.pixels`), in the order of their names, are the representative set.
    ``dynamic``, unless ``plain``, takes ``inputs["float32"]``: what this stage makes of the same
    SavedModel in that variant.

    Returns:
        Facts: ``variant``, ``bytes``, ``tensorflow`` (version), ``ops`` (operator name ->
        count), ``custom_ops`` (names), ``inputs`` and ``outputs`` (list of ``name``, ``shape``,
        ``dtype``, and ``scale``, ``zero_point`` where quantised), ``min_runtime_version``;
        of :data:`CALIBRATED` also ``calibration_images`` (names) and ``calibration_pictures``
        (how many were made of them).

    Raises:
        StageError: there are no usable images for int8, or the result is not as expected.
    """
    variant = params["variant"]
    if variant not in VARIANTS:
        raise StageError(
            "stage-failed", f"There is no variant {variant!r}.", f"Variants: {', '.join(VARIANTS)}."
        )
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    converter, norm, facts = prepared(tf, params, inputs, emit)
    # A graph of raw boxes and scores has no decoding: all of it is the network.
    tail = params["postprocess"] != decoding.NONE
    sparing = int16x8.repaired if variant == "int16x8" else float_tail.left_in_float
    layers = params["float_layers"]
    outputs = output_names.operations(inputs["saved_model"]) if layers else {}
    with sparing(tail, layers, outputs):
        data = dequantize_order.canonical(converted(converter))
    data = _limited(data, params["suppression"])
    if variant == "dynamic" and not params["plain"]:
        data = float_depthwise.restored(data, inputs["float32"].read_bytes())
    (out / "model.tflite").write_bytes(data)
    facts.update(describe(tf, data))
    if variant == "int8" and _same_for_all_channels(norm):
        _check_input(facts["inputs"][0], norm, params["inference_io"])
    return facts


def prepared(
    tf: Any, params: dict[str, Any], inputs: dict[str, Path], emit: Any
) -> tuple[Any, dict[str, list[float]], dict[str, Any]]:
    """Make a converter for a variant.

    Args:
        tf: TensorFlow.
        params: those of this stage.
        inputs: as :func:`run`.
        emit: where progress is reported.

    Returns:
        (the converter, the normalisation of a :data:`CALIBRATED` variant, facts).

    Raises:
        StageError: as :func:`run`.
    """
    saved_model, variant = inputs["saved_model"], params["variant"]
    converter = _converter(tf, saved_model)
    converter.allow_custom_ops = True  # TFLite_Detection_PostProcess
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    facts: dict[str, Any] = {"variant": variant}
    if variant not in CALIBRATED:
        return converter, {}, facts
    pictures = calibration.chosen(_calibration_files(inputs), params["calibration_number"])
    norm = _normalization(params["normalization"], saved_model)
    fed = (_input_size(tf, saved_model), _feeding(params["feeding"]), norm, emit)
    converter.representative_dataset = lambda: calibration.representative(pictures, *fed)
    facts["calibration_images"] = list(dict.fromkeys(path.name for path, _ in pictures))
    facts["calibration_pictures"] = len(pictures)
    if variant == "int16x8":
        # The detection operator, and a CenterNet's comparisons, stay in float. Only the older
        # quantiser knows 16 bits; the other would calibrate for nothing.
        converter.experimental_new_quantizer = False
        converter.target_spec.supported_ops = [_int16x8(tf), tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter, norm, facts
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    kind = params["inference_io"]
    if _same_for_all_channels(norm):
        converter.inference_input_type = tf.as_dtype(kind)
        if kind == "int8" and params["postprocess"] == decoding.NONE:
            converter.inference_output_type = tf.int8
    elif kind != "uint8":
        raise _unlike_channels(norm)
    return converter, norm, facts


_loaded = Kept()


def _converter(tf: Any, saved_model: Path) -> Any:
    """Make a converter of a SavedModel; all variants share what loading it gives.

    The converter asks that for signatures and source lines only. It converts the folder's files,
    which no stage changes.
    """
    module = sys.modules[tf.lite.TFLiteConverter.__module__]
    original = module._load  # noqa: SLF001

    def load(folder: str, tags: Any) -> Any:
        return _loaded.get(folder, lambda: original(folder, tags))

    module._load = load  # noqa: SLF001
    try:
        return tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    finally:
        module._load = original  # noqa: SLF001


def _int16x8(tf: Any) -> Any:
    return tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8


def _calibration_files(inputs: dict[str, Path]) -> list[Path]:
    if "images" not in inputs:
        raise StageError(
            "image-set",
            "Full integer quantisation needs representative images.",
            "Name a folder of them with calibration.images in the recipe (--calibration).",
        )
    return pixels.list_images(inputs["images"])


def _unlike_channels(norm: dict[str, list[float]]) -> StageError:
    return StageError(
        "unsupported-model",
        "This model's input cannot be int8: its colour channels are normalised differently"
        f" (mean {norm['mean']}, std {norm['std']}), and an input in eight bits has one scale.",
        "Leave out export.inference_io (--inference-io): the int8 file then has a float input.",
    )


def converted(converter: Any) -> bytes:
    """Run a converter.

    Raises:
        StageError: it failed.
    """
    try:
        return bytes(converter.convert())
    except StageError:
        raise
    except Exception as error:  # the converter raises its own and many other kinds
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise StageError(
            "stage-failed",
            f"TensorFlow's converter failed: {lines[0] if lines else repr(error)}",
            "The stage's log holds the converter's whole message.",
        ) from error


def _limited(data: bytes, suppression: Optional[dict[str, Any]]) -> bytes:
    """Tell the detection operator how many boxes of a class to keep, which no exporter does."""
    if suppression is None or not suppression["regular"]:
        return data
    number = suppression["detections_per_class"]
    if number == postprocess_options.DETECTIONS_PER_CLASS:
        return data
    return postprocess_options.with_detections_per_class(data, number)


def _normalization(given: Optional[dict[str, Any]], saved_model: Path) -> dict[str, list[float]]:
    if given is None:
        try:
            text = (saved_model / "assets.extra" / FACTS_FILE).read_text(encoding="utf-8")
            given = json.loads(text)["normalization"]
        except (OSError, ValueError, KeyError) as error:
            raise StageError(
                "stage-failed",
                "The normalisation of the model's input is not known.",
                "Give the parameter 'normalization', or a SavedModel of the export stage.",
            ) from error
    try:
        mean, std = ([float(value) for value in given[key]] for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise StageError("stage-failed", f"{given!r} is not a normalisation.") from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or set(given) != {"mean", "std"}:
        raise StageError("stage-failed", f"{given!r} is not a normalisation.")
    return {"mean": mean, "std": std}


def _feeding(given: Any) -> feeding.Feeding:
    try:
        return feeding.ASSUMED if given is None else feeding.read(given)
    except ValueError as error:
        raise StageError("stage-failed", f"The parameter 'feeding' is wrong: {error}.") from error


def _same_for_all_channels(norm: dict[str, list[float]]) -> bool:
    return len(set(norm["mean"])) == len(set(norm["std"])) == 1


def _input_size(tf: Any, saved_model: Path) -> tuple[int, int]:
    from tensorflow.python.saved_model import loader_impl

    graphs = loader_impl.parse_saved_model(str(saved_model)).meta_graphs
    (tensor,) = graphs[0].signature_def["serving_default"].inputs.values()
    _, height, width, _ = (dimension.size for dimension in tensor.tensor_shape.dim)
    return int(height), int(width)


def describe(tf: Any, data: bytes) -> dict[str, Any]:
    """Describe a ``.tflite`` file: the facts of :func:`run` from ``bytes`` on.

    Args:
        tf: TensorFlow.
        data: the file.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(data, 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}
    ops: dict[str, int] = {}
    custom = set()
    graph = model.Subgraphs(0)
    for index in range(graph.OperatorsLength()):
        code = model.OperatorCodes(graph.Operators(index).OpcodeIndex())
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = names[builtin]
        if builtin == schema.BuiltinOperator.CUSTOM:
            name = code.CustomCode().decode("utf-8")
            custom.add(name)
        ops[name] = ops.get(name, 0) + 1
    return {
        "bytes": len(data),
        "tensorflow": tf.__version__,
        "ops": dict(sorted(ops.items())),
        "custom_ops": sorted(custom),
        "inputs": [
            _tensor(schema, graph.Tensors(graph.Inputs(i))) for i in range(graph.InputsLength())
        ],
        "outputs": [
            _tensor(schema, graph.Tensors(graph.Outputs(i))) for i in range(graph.OutputsLength())
        ],
        "min_runtime_version": _min_runtime(model),
    }


def _tensor(schema: Any, tensor: Any) -> dict[str, Any]:
    types = {value: name for name, value in vars(schema.TensorType).items() if name.isupper()}
    facts: dict[str, Any] = {
        "name": tensor.Name().decode("utf-8"),
        "shape": [int(tensor.Shape(i)) for i in range(tensor.ShapeLength())],
        "dtype": types[tensor.Type()].lower(),
    }
    quantization = tensor.Quantization()
    if quantization is not None and quantization.ScaleLength() == 1:
        facts["scale"] = float(quantization.Scale(0))
        facts["zero_point"] = int(quantization.ZeroPoint(0))
    return facts


def _min_runtime(model: Any) -> Optional[str]:
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name().decode("utf-8") == _MIN_RUNTIME:
            raw = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            return str(raw.rstrip(b"\0").decode("ascii"))
    return None


def _check_input(tensor: dict[str, Any], norm: dict[str, list[float]], kind: str) -> None:
    """Check that the quantised input covers exactly the pixels' range.

    With one mean and std for all channels a stored byte must be the pixel value itself, or minus
    128 as int8: scale 1 / std, zero point the mean, rounded either way.
    """
    lowest = min(-mean / std for mean, std in zip(norm["mean"], norm["std"]))
    highest = max((255 - mean) / std for mean, std in zip(norm["mean"], norm["std"]))
    scale = (highest - lowest) / 255
    zero_point = -lowest / scale + pixels.RAW_INPUTS[kind]
    if (
        tensor["dtype"] != kind
        or not math.isclose(tensor.get("scale", 0.0), scale, rel_tol=1e-5)
        or abs(tensor["zero_point"] - zero_point) > 0.5 + 1e-3
    ):
        raise StageError(
            "stage-failed",
            f"The int8 file's input is {tensor['dtype']} with scale {tensor.get('scale')} and"
            f" zero point {tensor.get('zero_point')}; expected {kind}, {scale:.8g},"
            f" {zero_point:.4g}.",
            "This is a bug.",
        )
