"""Stage: write metadata and labels into a ``.tflite``, then read them back and compare.

A device runs a detector by its metadata: how pixels become input values, which output is which,
the name of each class. All of it is *derived* (normalisation from the model's own preprocessing,
labels from the label map, roles from the graph) and never left to defaults, because a wrong value
is silent: the detector still answers, only worse.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from stages.files import feeding, labelmap, pixels
from stages.protocol.failures import StageError
from stages.protocol.request import REQUIRED
from stages.tflite import (
    decoding,
    flatbuffer,
    metadata_writer,
    output_order,
    output_roles,
    output_shapes,
    packed_files,
    tflite_meta,
    tflite_model,
)

ENVIRONMENT = "metadata"

PARAMS: dict[str, Any] = {
    "architecture": REQUIRED,  # "ssd", "efficientdet" or "centernet"
    "num_classes": REQUIRED,  # of the model; see stages.files.labelmap.fit
    "normalization": None,  # {"mean": [..], "std": [..]}, pixel units; needed unless "seed"
    # How a photograph becomes the input (stages.files.feeding); None: nothing is said of it.
    "feeding": None,
    "profile": "default",  # or "seed": the original recipe's metadata, faults included
    "name": "Object detector",
    "description": "Finds objects in an image: where each is, what it is, and how sure that is.",
    "version": "",
    "author": "",
    "license": "",
    "score_threshold": None,  # 0..1, declared for readers that honour it; None: none declared
    "roles": None,  # {"boxes", "classes", "scores", "count"} -> output name; None: derived
    "label_file_name": None,  # seed only: the name of the packed label map; None: the input's
    # "tf1": outputs in the order boxes, classes, scores, count; "tf2": as the file has them.
    "output_order": output_order.AS_EXPORTED,
    "role_names": False,  # True: the signature's outputs are called by their roles
    # "none": the outputs are raw boxes and scores; always in this order, and called so.
    "postprocess": decoding.TFLITE,
}

LABEL_FILE = "labelmap.txt"
MODEL_FILE = "model.tflite"

_ARCHITECTURES = ("ssd", "efficientdet", "centernet", "center_net")
_PROFILES = ("default", "seed")
_ORDERS = (output_order.AS_EXPORTED, *output_order.ORDERS)
_INPUT_TYPES = ("float32", *pixels.RAW_INPUTS)
"""The Task Library and MediaPipe support float32 and uint8; int8 is for microcontrollers."""

_INT8 = "A value is the pixel, 0 to 255, minus 128."

_PIXEL_WARNING, PIXEL_LIMIT = 1.0, 8.0
"""How far an input in eight bits may be from the declared normalisation, in pixel values.

Readers feed raw pixels to it. Rounding the zero point (127.5 to 127 or 128) costs up
to 0.5; calibration images that do not reach black and white cost more; a different
normalisation costs tens.
"""


@dataclass(frozen=True)
class _Settings:
    architecture: str
    num_classes: int
    profile: str
    roles: Optional[dict[str, str]]
    output_order: str
    role_names: bool
    decoding: Optional[decoding.Decoding]
    declaration: metadata_writer.Declaration


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Annotate ``inputs["model"]`` with the classes of ``inputs["label_map"]``.

    Without post-processing, ``inputs["decoding"]`` is the folder that the export wrote, which says
    how raw outputs become detections (:mod:`stages.tflite.decoding`). It is packed, too.

    The file's graph stays as it is, but for the shapes of the detection operator's outputs, which
    converters leave out (:mod:`stages.tflite.output_shapes`), and for the order of the outputs and
    their names in the signature, where others are wanted. Profile ``seed`` changes none of these.
    Writes ``out/model.tflite`` and, beside it, ``out/labelmap.txt`` (one name a line, line
    index = class id - 1, ``???`` for ids that the label map leaves out).

    Returns:
        Facts: ``profile``, ``labels`` (classes with a name), ``label_lines``, ``label_notes``
        (texts: how the label map was understood, and what it does not have in common with the
        model), ``label_file`` (packed in the model), ``normalization`` (mean and std as declared),
        ``feeding`` (as declared, or None),
        ``input`` (height, width, type), ``roles`` (role -> tensor, name, signature_name,
        position), ``output_order`` (roles by position), ``min_parser_version``, ``bytes``.

    Raises:
        StageError: kinds ``label-map``, ``unsupported-model``, ``stage-failed``.
    """
    settings = _settings(params, inputs)
    how = _feeding(params["feeding"], settings.profile)
    label_map = inputs["label_map"]
    read = labelmap.load(label_map, settings.num_classes)
    fit = labelmap.fit(read.items, settings.num_classes, label_map.name)
    label_lines = fit.lines
    text = "".join(f"{line}\n" for line in label_lines).encode("utf-8")

    bare, model = _read_model(inputs["model"])
    image = _check_input(model, settings, emit)
    outputs = _roles(model, settings)
    if how is not None:
        settings = _with_feeding(settings, how, image)
    if image["type"] == "int8":
        settings = _with_int8(settings)
    if settings.decoding is not None:
        bare = output_order.arranged(bare, outputs, output_roles.RAW_ROLES)
    elif settings.output_order != output_order.AS_EXPORTED:
        order = output_order.ORDERS[settings.output_order]
        bare = output_order.arranged(bare, outputs, order)
    if settings.role_names:
        bare = output_order.named(bare, outputs)
    if settings.profile != "seed":
        bare = output_shapes.written(bare)
    model = tflite_model.read(bare)
    outputs = _roles(model, settings)
    emit.progress(0, 2, "writing metadata")
    if settings.profile == "seed":
        _check_seed(outputs)
        embedded = label_map.read_bytes()
        data = metadata_writer.annotate_like_seed(
            bare, embedded, settings.declaration.label_file, out
        )
    else:
        embedded = text
        data = _annotated(bare, settings.declaration, outputs, text, out)
    emit.progress(1, 2, "reading it back")
    found = _read_back(data, model, settings, outputs, embedded)
    (out / LABEL_FILE).write_bytes(text)
    (out / MODEL_FILE).write_bytes(data)
    return {
        "profile": settings.profile,
        "labels": sum(line != labelmap.GAP for line in label_lines),
        "label_lines": len(label_lines),
        "label_notes": [text for text in (read.note, *fit.warnings) if text],
        "label_file": settings.declaration.label_file,
        "normalization": {
            "mean": list(settings.declaration.mean),
            "std": list(settings.declaration.std),
        },
        "feeding": None if how is None else how.as_fact(),
        "input": image,
        "roles": {
            role: {
                "position": output.position,
                "tensor": output.tensor,
                "name": output.name,
                "signature_name": output.signature_name,
            }
            for role, output in outputs.items()
        },
        "output_order": sorted(outputs, key=lambda role: outputs[role].position),
        "min_parser_version": found.min_parser_version,
        "bytes": len(data),
    }


def _roles(model: tflite_model.Model, settings: _Settings) -> dict[str, output_roles.Output]:
    if settings.decoding is not None:
        anchors, classes = settings.decoding.count, settings.decoding.classes
        return output_roles.derive_raw(model, anchors, classes)
    return output_roles.derive(model, settings.architecture, settings.roles)


def _decoding(params: dict[str, Any], inputs: Mapping[str, Path]) -> Optional[decoding.Decoding]:
    """Read how raw outputs are decoded; None of a graph with post-processing."""
    kind = params["postprocess"]
    if kind not in decoding.POSTPROCESSING:
        raise _bad_param("postprocess", kind, "one of " + ", ".join(decoding.POSTPROCESSING))
    if kind != decoding.NONE:
        return None
    if params["profile"] == "seed" or params["output_order"] != output_order.AS_EXPORTED:
        raise _bad_param("postprocess", kind, "tflite with profile 'seed' or an order of outputs")
    folder = inputs["decoding"]
    try:
        return decoding.parse({path.name: path.read_bytes() for path in folder.iterdir()})
    except ValueError as error:
        raise StageError("stage-failed", f"The export's decoding is wrong: {error}.") from error


def _settings(params: dict[str, Any], inputs: Mapping[str, Path]) -> _Settings:
    label_map = inputs["label_map"]
    profile, architecture = params["profile"], params["architecture"]
    if profile not in _PROFILES:
        raise _bad_param("profile", profile, "one of " + ", ".join(_PROFILES))
    if architecture not in _ARCHITECTURES:
        raise _bad_param("architecture", architecture, "one of " + ", ".join(_ARCHITECTURES[:3]))
    classes = params["num_classes"]
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise _bad_param("num_classes", classes, "a whole number from 1")
    for name in ("name", "description", "version", "author", "license"):
        if not isinstance(params[name], str):
            raise _bad_param(name, params[name], "a text")
    threshold = params["score_threshold"]
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise _bad_param("score_threshold", threshold, "a number from 0 to 1")
    chosen = params["roles"]
    if chosen is not None and not (
        isinstance(chosen, dict) and all(isinstance(name, str) for name in chosen.values())
    ):
        raise _bad_param("roles", chosen, "an object: role -> output name")
    order = params["output_order"]
    if order not in _ORDERS or (profile == "seed" and order != output_order.AS_EXPORTED):
        raise _bad_param("output_order", order, "one of " + ", ".join(_ORDERS))
    named = params["role_names"]
    if not isinstance(named, bool) or (profile == "seed" and named):
        raise _bad_param("role_names", named, "true or false; false with profile 'seed'")
    label_file = LABEL_FILE
    if profile == "seed":
        mean, std = (float(metadata_writer.SEED_MEAN),), (float(metadata_writer.SEED_STD),)
        label_file = params["label_file_name"] or label_map.name
        if not isinstance(label_file, str) or Path(label_file).name != label_file:
            raise _bad_param("label_file_name", label_file, "a file name without folders")
    else:
        mean, std = _normalization(params["normalization"])
    how = _decoding(params, inputs)
    return _Settings(
        architecture=architecture,
        num_classes=classes,
        profile=profile,
        roles=chosen,
        output_order=order,
        role_names=named or how is not None,
        decoding=how,
        declaration=metadata_writer.Declaration(
            name=params["name"],
            description=params["description"],
            version=params["version"],
            author=params["author"],
            license=params["license"],
            mean=mean,
            std=std,
            label_file=label_file,
            score_threshold=threshold,
            box_files={} if how is None else how.as_files(),
        ),
    )


def _feeding(value: Any, profile: str) -> Optional[feeding.Feeding]:
    if value is None or profile == "seed":  # the original recipe says nothing of it
        return None
    try:
        return feeding.read(value)
    except ValueError as error:
        expected = "a description of feeding (stages.files.feeding)"
        raise _bad_param("feeding", value, expected) from error


def _with_feeding(settings: _Settings, how: feeding.Feeding, image: Mapping[str, Any]) -> _Settings:
    declaration = replace(
        settings.declaration,
        image=how.sentence(image["height"], image["width"]),
        image_files={feeding.FILE: how.as_file()},
    )
    return replace(settings, declaration=declaration)


def _with_int8(settings: _Settings) -> _Settings:
    words = f"{settings.declaration.image} {_INT8}"
    return replace(settings, declaration=replace(settings.declaration, image=words))


def _normalization(value: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    expected = "{'mean': [..], 'std': [..]} with 1 or 3 numbers each, std above 0"
    if not isinstance(value, dict) or set(value) != {"mean", "std"}:
        raise _bad_param("normalization", value, expected)
    mean, std = value["mean"], value["std"]
    for numbers in (mean, std):
        if not isinstance(numbers, (list, tuple)) or not all(map(_is_number, numbers)):
            raise _bad_param("normalization", value, expected)
    if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        raise _bad_param("normalization", value, expected)
    return tuple(map(float, mean)), tuple(map(float, std))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_model(path: Path) -> tuple[bytes, tflite_model.Model]:
    try:
        bare, _ = packed_files.split(path.read_bytes())
        return bare, tflite_model.read(bare)
    except flatbuffer.FlatError as error:
        raise StageError(
            "unsupported-model",
            f"{path.name} cannot be read: {error}.",
            "Convert the model again; if it was made elsewhere, check the file.",
        ) from error


def _check_input(model: tflite_model.Model, settings: _Settings, emit: Any) -> dict[str, Any]:
    graph = model.graph
    tensors = [graph.tensors[index] for index in graph.inputs]
    shapes = [list(tensor.shape) for tensor in tensors]
    if len(tensors) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] != 3:
        raise StageError(
            "unsupported-model",
            f"The model's inputs have the shapes {shapes}; one of [1, height, width, 3] is needed.",
            "Export a detector for single RGB images.",
        )
    tensor = tensors[0]
    if tensor.type not in _INPUT_TYPES:
        raise StageError(
            "unsupported-model",
            f"The model's input is {tensor.type}; metadata describes float32, uint8 and int8 only.",
            "Convert it with a float32 or uint8 input.",
        )
    if tensor.type in pixels.RAW_INPUTS and settings.profile != "seed":
        _check_pixels(tensor, settings.declaration, emit)
    return {"height": shapes[0][1], "width": shapes[0][2], "type": tensor.type}


def _check_pixels(
    tensor: tflite_model.Tensor, declaration: metadata_writer.Declaration, emit: Any
) -> None:
    if tensor.quantization is None:
        return  # an input that the graph itself converts
    offset = pixels.RAW_INPUTS[tensor.type]
    error = pixel_error(tensor.quantization, declaration.mean, declaration.std, offset)
    if error > PIXEL_LIMIT:
        raise StageError(
            "unsupported-model",
            f"The model's {tensor.type} input reads raw pixels up to {error:.1f} pixel values away "
            f"from the normalisation mean {list(declaration.mean)}, std {list(declaration.std)}.",
            "Convert it with a float32 input, or calibrate with images that reach from black to "
            "white.",
        )
    if error > _PIXEL_WARNING:
        emit.warning(
            f"the {tensor.type} input reads raw pixels up to {error:.1f} pixel values off: the "
            "calibration images do not reach from black to white"
        )


def pixel_error(
    quantization: tflite_model.Quantization,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    offset: int = 0,
) -> float:
    """Return the largest difference, in pixel values, between a raw pixel that a quantised input
    reads and the same pixel through (pixel - mean) / std.

    Args:
        offset: added to a pixel to store it (:data:`stages.files.pixels.RAW_INPUTS`).
    """
    scale = quantization.scale[0]
    zero_point = quantization.zero_point[0] if quantization.zero_point else 0
    return max(
        abs((pixel + offset - zero_point) * scale * deviation + middle - pixel)
        for pixel in (0, 255)  # linear in the pixel: the extremes are at the ends
        for middle, deviation in zip(mean, std)
    )


def _annotated(
    bare: bytes,
    declaration: metadata_writer.Declaration,
    outputs: dict[str, output_roles.Output],
    labels: bytes,
    out: Path,
) -> bytes:
    try:
        return metadata_writer.annotate(bare, declaration, outputs, labels, out)
    except _WRITER_FAULTS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError(
            "unsupported-model",
            f"tflite-support cannot write metadata into this file: {reason}",
            "Convert the model again with TensorFlow's own converter.",
        ) from error


_WRITER_FAULTS = (
    ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, struct.error,
)  # fmt: skip
"""What tflite-support raises for files whose form it does not know: it parses them in Python."""


def _check_seed(outputs: dict[str, output_roles.Output]) -> None:
    # The original recipe's writer assigns roles by ascending tensor index.
    tensors = [outputs[role].tensor for role in output_roles.ROLES]
    if tensors != sorted(tensors):
        raise StageError(
            "unsupported-model",
            "The seed profile only fits graphs whose outputs are made by "
            f"{tflite_model.DETECTION_POSTPROCESS}: elsewhere its writer mixes up the outputs.",
            "Use the default profile.",
        )


def _read_back(
    data: bytes,
    before: tflite_model.Model,
    settings: _Settings,
    outputs: dict[str, output_roles.Output],
    embedded: bytes,
) -> tflite_meta.Metadata:
    """Read the result as a device would, and compare it with the declaration."""
    declaration = settings.declaration
    try:
        after = tflite_model.read(data)
        found = tflite_meta.read(after)
        files = tflite_model.packed_files(data)
    except flatbuffer.FlatError as error:
        raise _mismatch(f"it cannot be read: {error}") from error
    if found is None:
        raise _mismatch("there is none")
    if not same_graph(before, after):
        raise StageError(
            "unsupported-model",
            "Writing metadata would change the graph: tflite-support leaves out what its schema "
            "does not have.",
            "Convert the model again with an older converter.",
        )
    for role, output in outputs.items():
        name = metadata_writer.NAMES[role]
        if found.output(name) != output.position:
            raise _mismatch(f"{name!r} is not at position {output.position}")
    image = found.inputs[0]
    if (image.mean, image.std) != (_float32(declaration.mean), _float32(declaration.std)):
        raise _mismatch(f"mean {image.mean} and std {image.std} were not declared")
    if settings.decoding is None:
        box = found.outputs[outputs[output_roles.BOXES].position].box
        if box != tflite_meta.BoxFormat(metadata_writer.BOX_INDEX, "boundaries", "ratio"):
            raise _mismatch(f"boxes are described as {box}")
    elif tflite_meta.output_files(data, found, tflite_meta.RAW_BOXES) != declaration.box_files:
        raise _mismatch("how raw boxes are decoded is not with them")
    described = {**declaration.image_files, **declaration.box_files}
    if files != {declaration.label_file: embedded, **described}:
        raise _mismatch(f"the packed files are {sorted(files)}, or differ")
    if settings.profile == "default":
        general = (found.name, found.description, found.version, found.author, found.license)
        wanted = declaration
        if general != (
            wanted.name, wanted.description, wanted.version, wanted.author, wanted.license
        ):  # fmt: skip
            raise _mismatch(f"the general description is {general}")
        if (image.description, {item.name for item in image.files}) != (
            wanted.image, set(wanted.image_files)
        ):  # fmt: skip
            raise _mismatch(f"the input is described as {image.description!r}")
        if tflite_meta.labels(data, found) != embedded.decode("utf-8").splitlines():
            raise _mismatch("the labels differ")
    _read_back_by_tflite_support(data, found, files)
    return found


def _read_back_by_tflite_support(
    data: bytes, found: tflite_meta.Metadata, files: dict[str, bytes]
) -> None:
    """Read with tflite-support as well: most readers share its code, and both must agree."""
    theirs = metadata_writer.packed_by_tflite_support(data)
    graph = theirs["metadata"]["subgraph_metadata"][0]
    names = [tensor["name"] for tensor in graph["output_tensor_metadata"]]
    units = graph["input_tensor_metadata"][0]["process_units"]
    options = [unit["options"] for unit in units if unit["options_type"] == "NormalizationOptions"]
    agreed = (
        names == [tensor.name for tensor in found.outputs]
        and [len(found.inputs[0].mean)] == [len(item["mean"]) for item in options]
        and _float32(tuple(options[0]["mean"])) == found.inputs[0].mean
        and _float32(tuple(options[0]["std"])) == found.inputs[0].std
        and theirs["metadata"]["min_parser_version"] == found.min_parser_version
        and theirs["files"] == files
    )
    if not agreed:
        raise _mismatch("tflite-support reads it differently")


def same_graph(before: tflite_model.Model, after: tflite_model.Model) -> bool:
    """Whether two models compute the same: graphs, signatures and every buffer but metadata."""
    kept = {name: data for name, data in before.metadata.items() if name != tflite_meta.ENTRY}
    left = {name: data for name, data in after.metadata.items() if name != tflite_meta.ENTRY}
    if (before.version, before.subgraphs, before.signatures, kept) != (
        after.version, after.subgraphs, after.signatures, left
    ):  # fmt: skip
        return False
    used = {tensor.buffer for graph in before.subgraphs for tensor in graph.tensors}
    return all(before.buffers[index] == after.buffers[index] for index in used)


def _float32(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


def _mismatch(reason: str) -> StageError:
    return StageError(
        "stage-failed",
        f"The metadata that was written is not the metadata that was meant: {reason}.",
        "This is a bug.",
    )


def _bad_param(name: str, value: Any, expected: str) -> StageError:
    return StageError("stage-failed", f"The parameter {name!r} is {value!r}; expected: {expected}.")
