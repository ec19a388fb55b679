"""Stage: find out how a ready-made ``.tflite`` of a model's archive is to be used, by running it.

Such a file does not state its input normalisation, and the order of its outputs is not reliable
(:mod:`stages.tflite.output_roles`). The checkpoint beside it shows what the model detects. So the
file is run with every candidate normalisation; the right one is the one with which it detects what
the checkpoint detects (:mod:`stages.steps.reference`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from stages.detect import detector, matching
from stages.files import pixels
from stages.files.normalizations import KNOWN, Normalization
from stages.gates import own_list
from stages.odapi import detection_model, pipeline, resizing
from stages.protocol.failures import StageError
from stages.steps import reference
from stages.tflite import flatbuffer, output_roles, packed_files, tflite_model

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}

MODEL_FILE = "model.tflite"

_RAW = Normalization((0.0,) * 3, (1.0,) * 3)

_LEAST_AGREEMENT = 0.5
"""Below this (:func:`stages.detect.matching.agreement`) the file is not a conversion of the
checkpoint.

Full int8 conversions of the same checkpoint stay above it; other weights, another label order or
a wrong normalisation stay far below.
"""

_CLEARLY = 0.5
"""The best normalisation's disagreement is at most this fraction of any other's."""

_CUT = 0.05
"""How far above the end of a full list a detection may lack its counterpart."""

_SAME_PIXEL = 1.0
"""Two normalisations are only told apart if they differ by more, in pixel values.

127.5 / 127.5 and 127 / 128 differ by one pixel value in black and none in white: a quantised file
can match either, and its detections are the same. The better one is used.
"""


class _Within:
    """Swallows progress of a stage that runs inside this one; its steps are not this stage's."""

    def __init__(self, emit: Any) -> None:
        self._emit = emit
        self.warning = emit.warning

    def progress(self, done: int, total: int, message: str = "") -> None:
        self._emit.progress(2, 3, message)


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Find out how to use ``inputs["model"]`` (a ``.tflite`` file).

    Args:
        params: none.
        inputs: ``model``; ``checkpoint``, the model folder in the zoo's layout that it was made
            from; ``images``, a folder of images, some of them with objects the model knows.
        out: gets ``model.tflite``, the same bytes as ``inputs["model"]``, and
            ``detections.json``: the checkpoint's detections, as :mod:`stages.steps.reference`
            writes them.
        emit: events.

    Returns:
        Facts: ``original_sha256``, ``original_bytes``, ``architecture``, ``num_classes``,
        ``normalization`` (mean and std per channel), ``roles`` (role -> output name, as
        :mod:`stages.steps.annotate` takes them), ``evidence`` (every normalisation tried with its
        ``agreement``, best first), ``feeding`` (:mod:`stages.files.feeding`, by the checkpoint's
        own configuration), ``input`` (height, width, type), ``max_detections``,
        ``nms_score_threshold`` and ``nms_iou_threshold`` (the checkpoint's), ``checkpoint``,
        ``variables`` (restored and compared), ``runtime``, ``untrained`` (reasons to think that
        the checkpoint was never trained).

    Raises:
        StageError: kind ``unsupported-model``; the file is not a detector, its outputs cannot be
            told apart, it does not detect what the checkpoint detects, or two normalisations fit
            equally well. Or see :mod:`stages.steps.reference`.
    """
    data = inputs["model"].read_bytes()
    model = _read(data, inputs["model"].name)
    files = pixels.list_images(inputs["images"])
    tensor = _input(model)
    _, height, width, _ = tensor.shape
    emit.progress(0, 3, "importing TensorFlow")
    from stages.odapi import tensorflow_setup

    tensorflow_setup.load()
    config = pipeline.read_pipeline(inputs["checkpoint"])
    architecture = config.model.WhichOneof("model")
    classes = pipeline.num_classes(config)
    own = _own_preprocessing(config, [height, width])
    tried = candidates(tensor, own)
    resizer = resizing.as_text(resizing.as_built(config, [height, width]))
    how = resizing.described(resizer, architecture, (own or _RAW).as_fact())

    emit.progress(1, 3, "running it")
    images, shares = [], []
    for path in files:
        image = pixels.load_rgb(path)
        images.append(pixels.fed(image, height, width, how))
        shares.append(pixels.placed(*image.shape[:2], height, width, how)[1])
    interpreter, runtime = detector.make_interpreter(data)
    answers = {norm: [_answer(interpreter, image, norm) for image in images] for norm in tried}
    outputs = find_roles(model, architecture, list(answers.values()), classes)

    emit.progress(2, 3, "running the checkpoint")
    limit = _capacity(outputs, answers)
    expected, by_operator, facts = _expected(inputs, [height, width], limit, emit)
    agreements = {}
    for norm, given in answers.items():
        both = []
        for own, answer, share in zip(expected, given, shares):
            every = _detections(answer, outputs)
            found = pixels.in_photograph(every, share)
            if not by_operator:
                # The model's own list is clipped to the photograph, and knows nothing of the
                # filling, whose boxes are part of the file's list.
                end = own_list.end(every, limit)
                own, found = own_list.comparable(own, found, None, limit, _CUT, end)
            both.append((own, found))
        agreements[norm] = _agreement(*zip(*both))
    chosen = choose(agreements)
    (out / MODEL_FILE).write_bytes(data)
    names = [path.name for path in files]
    reference.write(out, images=dict(zip(names, expected)))
    emit.progress(3, 3, f"normalisation {chosen.shown()}")
    ranked = sorted(agreements.items(), key=lambda item: -item[1])
    return {
        "original_sha256": hashlib.sha256(data).hexdigest(),
        "original_bytes": len(data),
        "architecture": architecture,
        "num_classes": classes,
        "normalization": chosen.as_fact(),
        "roles": {role: _name(model, output) for role, output in outputs.items()},
        "evidence": [{**norm.as_fact(), "agreement": round(value, 6)} for norm, value in ranked],
        "feeding": how.as_fact(),
        "input": {"height": height, "width": width, "type": tensor.type},
        "max_detections": limit,
        **pipeline.suppression(config),
        "checkpoint": facts["checkpoint"],
        "variables": facts["variables"],
        "runtime": runtime,
        "untrained": facts["untrained"],
    }


def candidates(tensor: tflite_model.Tensor, own: Optional[Normalization]) -> list[Normalization]:
    """List the candidate normalisations.

    Args:
        tensor: the model's input.
        own: the preprocessing of the checkpoint's model, where it is one.

    Returns:
        For a float input the common ones and ``own``. A uint8 input takes raw pixels whatever the
        metadata says, and its quantisation decides what the graph sees: there is only one.

    Raises:
        StageError: no normalisation can be told from the input's quantisation.
    """
    if tensor.type == "uint8":
        quantization = tensor.quantization
        if quantization is None:
            return [_RAW]
        scale, zero_point = quantization.scale, quantization.zero_point or (0,)
        if len(scale) != 1 or len(zero_point) != 1 or not scale[0] > 0:
            raise _unsupported("its input is quantised in a way that no metadata can describe")
        return [Normalization((float(zero_point[0]),) * 3, (1.0 / scale[0],) * 3)]
    found = list(KNOWN)
    if own is not None and all(own.difference(norm) > 1e-3 for norm in found):
        found.append(own)
    return found


def choose(agreements: Mapping[Normalization, float]) -> Normalization:
    """Choose the normalisation with which the file clearly detects what the checkpoint detects.

    Args:
        agreements: by normalisation, from 0 to 1.

    Raises:
        StageError: kind ``unsupported-model``; none fits, or several do.
    """
    ranked = sorted(agreements, key=lambda norm: -agreements[norm])
    best = ranked[0]
    shown = ", ".join(f"{norm.shown()}: {agreements[norm]:.3f}" for norm in ranked)
    if not agreements[best] >= _LEAST_AGREEMENT:
        raise StageError(
            "unsupported-model",
            "The ready-made file does not find what its checkpoint finds, whatever its pixels are "
            f"scaled by (agreement, of 1: {shown}).",
            "Checkpoint and .tflite must be of the same model, and some of the images must show "
            "things it knows. Without the variant 'prebuilt' the model can be converted.",
        )
    for other in ranked[1:]:
        near = round(max(best.difference(other), other.difference(best)), 6) <= _SAME_PIXEL
        if not near and 1 - agreements[best] > _CLEARLY * (1 - agreements[other]):
            raise StageError(
                "unsupported-model",
                f"The normalisation that the ready-made file wants cannot be told: {best.shown()} "
                f"fits hardly better than {other.shown()} (agreement, of 1: {shown}).",
                "Give more images with things the model knows, or leave out the variant "
                "'prebuilt'.",
            )
    return best


def find_roles(
    model: tflite_model.Model,
    architecture: str,
    answers: Sequence[Sequence[Sequence[Any]]],
    classes: int,
) -> dict[str, output_roles.Output]:
    """Derive the roles of the outputs from their values, and check them against the graph.

    Boxes are the only [1, N, 4] and the count the only single number. Of the two lists, scores
    lie between 0 and 1 and descend, classes are whole numbers below ``classes``; this must hold
    in every answer, and in no answer for the other way round.

    Args:
        model: the file.
        architecture: ``ssd`` or ``center_net``.
        answers: of each run, of each image, the outputs (float32 arrays in the model's order).
        classes: how many the model has.

    Raises:
        StageError: kind ``unsupported-model``; they cannot be told apart, or the graph
            (:func:`stages.tflite.output_roles.derive`) says something else.
    """
    every = [answer for run_ in answers for answer in run_]
    shapes = [list(values.shape) for values in every[0]]
    boxes = [i for i, shape in enumerate(shapes) if len(shape) == 3 and shape[2] == 4]
    counts = [i for i, values in enumerate(every[0]) if values.size == 1 and len(shapes[i]) < 2]
    lists = [i for i, shape in enumerate(shapes) if len(shape) == 2]
    if len(shapes) != 4 or not (len(boxes) == len(counts) == 1 and len(lists) == 2):
        raise _unsupported(
            f"its outputs have the shapes {shapes}; boxes [1, N, 4], scores and classes [1, N] and "
            "a count [1] are needed"
        )
    # Behind the count the rows hold whatever was in memory.
    rows = [_rows(answer[counts[0]], answer[lists[0]].size) for answer in every]
    fitting = [
        (scores, category)
        for scores, category in (lists, lists[::-1])
        if all(_are_scores(_first(answer[scores], n)) for answer, n in zip(every, rows))
        and all(
            _are_classes(_first(answer[category], n), classes) for answer, n in zip(every, rows)
        )
    ]
    derived = _derived(model, architecture)
    if derived is not None:
        positions = (derived[output_roles.SCORES].position, derived[output_roles.CLASSES].position)
        if positions not in fitting:
            raise _unsupported(
                "its graph says which output holds the scores and which the classes, but the "
                "numbers in them say otherwise"
            )
        return derived
    if len(fitting) != 1:
        raise _unsupported("the numbers in its outputs do not tell scores and classes apart")
    graph = model.graph
    names = {tensor: name for s in model.signatures[:1] for name, tensor in s.outputs.items()}
    scores, category = fitting[0]
    found = {
        output_roles.BOXES: boxes[0],
        output_roles.CLASSES: category,
        output_roles.SCORES: scores,
        output_roles.COUNT: counts[0],
    }
    return {
        role: output_roles.Output(
            position,
            graph.outputs[position],
            graph.tensors[graph.outputs[position]].name,
            names.get(graph.outputs[position], ""),
        )
        for role, position in found.items()
    }


def _derived(
    model: tflite_model.Model, architecture: str
) -> Optional[dict[str, output_roles.Output]]:
    try:
        return output_roles.derive(
            model, "centernet" if architecture == "center_net" else architecture
        )
    except StageError:
        operators = {operator.custom for operator in model.graph.operators}
        if architecture == "center_net" and tflite_model.DETECTION_POSTPROCESS not in operators:
            return None  # an exporter whose names and casts are not known here
        raise


def _rows(count: Any, capacity: int) -> int:
    """Return how many rows of an answer exist: none where its count is no such number.

    With an unsuitable normalisation a network may overflow.
    """
    try:
        return detector.valid_count(count, capacity)
    except detector.OutputError:
        return 0


def _first(values: Any, rows: int) -> Any:
    return values.reshape(-1)[:rows]


def _are_scores(numbers: Any) -> bool:
    import numpy as np

    return bool(
        np.all((numbers >= 0) & (numbers <= 1)) and np.all(numbers[1:] <= numbers[:-1])
    )  # comparisons with NaN are false


def _are_classes(values: Any, classes: int) -> bool:
    import numpy as np

    return bool(np.all((values >= 0) & (values < classes) & (values == np.round(values))))


def _read(data: bytes, name: str) -> tflite_model.Model:
    try:
        bare, _ = packed_files.split(data)
        return tflite_model.read(bare)
    except flatbuffer.FlatError as error:
        raise StageError(
            "unsupported-model",
            f"{name} cannot be read: {error}.",
            "The archive's .tflite is damaged, or is something else: download it again.",
        ) from error


def _input(model: tflite_model.Model) -> tflite_model.Tensor:
    tensors = [model.graph.tensors[index] for index in model.graph.inputs]
    shapes = [list(tensor.shape) for tensor in tensors]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] != 3:
        raise _unsupported(f"its inputs have the shapes {shapes}, not one of [1, height, width, 3]")
    if tensors[0].type not in ("float32", "uint8"):
        raise _unsupported(f"its input is {tensors[0].type}; metadata describes float32 and uint8")
    if min(tensors[0].shape) < 1 or -1 in tensors[0].shape_signature:
        raise _unsupported("its input has no fixed size")
    return tensors[0]


def _own_preprocessing(config: Any, size: list[int]) -> Optional[Normalization]:
    """Return the preprocessing of the checkpoint's own model, unless it is not linear."""
    copy = type(config).FromString(config.SerializeToString())
    shape = pipeline.fix_image_size(copy, size)
    model = detection_model.build(copy)
    with contextlib.suppress(StageError):
        found = detection_model.preprocessing(model, shape)
        return Normalization(tuple(found["mean"]), tuple(found["std"]))
    return None


def _answer(interpreter: Any, image: Any, norm: Normalization) -> list[Any]:
    """Return the outputs for an image (float32 [height, width, 3], 0 to 255), in order."""
    import numpy as np

    detail = interpreter.get_input_details()[0]
    if detail["dtype"] == np.uint8:
        values = pixels.to_uint8(image)
    else:
        values = pixels.normalize(image, norm.mean, norm.std)
    interpreter.set_tensor(detail["index"], values[None])
    interpreter.invoke()
    found = []
    for output in interpreter.get_output_details():
        values = interpreter.get_tensor(output["index"]).astype(np.float32)
        scale, zero_point = output["quantization"]
        found.append((values - zero_point) * np.float32(scale) if scale else values)
    return found


def _capacity(
    outputs: Mapping[str, output_roles.Output], answers: Mapping[Normalization, list[list[Any]]]
) -> int:
    """Return how many detections the file can output."""
    first = next(iter(answers.values()))[0]
    sizes = {
        role: first[outputs[role].position].shape[1]
        for role in (output_roles.BOXES, output_roles.SCORES, output_roles.CLASSES)
    }
    if len(set(sizes.values())) != 1:
        raise _unsupported(f"its outputs have room for different numbers of detections: {sizes}")
    return int(sizes[output_roles.BOXES])


def _expected(
    inputs: Mapping[str, Path], size: list[int], limit: int, emit: Any
) -> tuple[list[list[dict[str, Any]]], bool, dict[str, Any]]:
    """Return the checkpoint's detections for each image, at the file's input size.

    And whether they are those by the rule of TFLite's operator, and facts.
    """
    with tempfile.TemporaryDirectory() as folder:
        facts = reference.run(
            {**reference.PARAMS, "max_detections": limit, "image_size": size},
            {"checkpoint": inputs["checkpoint"], "images": inputs["images"]},
            Path(folder),
            _Within(emit),
        )
        text = (Path(folder) / reference.RESULT_FILE).read_text(encoding="utf-8")
    found = json.loads(text)
    # The operator at the end of SSD-like files uses its own suppression rule.
    images = found["as_tflite"] or found["as_built"] or found["images"]
    names = [path.name for path in pixels.list_images(inputs["images"])]
    return [images[name] for name in names], found["as_tflite"] is not None, facts


def _detections(
    answer: Sequence[Any], outputs: Mapping[str, output_roles.Output]
) -> list[dict[str, Any]]:
    boxes, classes, scores, count = (answer[outputs[role].position] for role in output_roles.ROLES)
    valid = _rows(count, scores.size)
    return [
        {
            "box": [float(side) for side in box],
            "score": float(score),
            "class_id": round(float(category)) + 1,
        }
        for box, score, category in zip(
            boxes.reshape(-1, 4)[:valid], _first(scores, valid), _first(classes, valid)
        )
    ]


def _agreement(
    expected: Sequence[Sequence[Mapping[str, Any]]], found: Sequence[Sequence[Mapping[str, Any]]]
) -> float:
    """Average over all images, each weighted by the scores of the checkpoint's detections."""
    weights = [sum(item["score"] for item in items) for items in expected]
    if not sum(weights):
        return 0.0
    parts = [
        weight * matching.agreement(one, other)
        for weight, one, other in zip(weights, expected, found)
    ]
    return sum(parts) / sum(weights)


def _name(model: tflite_model.Model, output: output_roles.Output) -> str:
    """Return a name by which :mod:`stages.steps.annotate` finds exactly this output."""
    names = [model.graph.tensors[tensor].name for tensor in model.graph.outputs]
    return output.name if names.count(output.name) == 1 else output.signature_name


def _unsupported(reason: str) -> StageError:
    return StageError(
        "unsupported-model",
        f"The ready-made file is not understood: {reason}.",
        "Leave out the variant 'prebuilt'; the checkpoint can still be converted.",
    )
