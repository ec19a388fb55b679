"""Write sample code that runs an artefact, with the artefact's own values filled in.

The templates are the files in ``snippets/``; the tests run the Python ones.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiln.core.plain_text import plain
from kiln.page.contents import SIGNATURE_FILE, Model, Variant
from kiln.project.stagecode import stage_module
from kiln.tflite.feeding import AREA, ASSUMED, BILINEAR, CORNER, NEAREST, Feeding

_TEMPLATES = Path(__file__).parent / "snippets"
_SLOT = re.compile(r"\{\{([a-z_]+)\}\}")

#: Results per image that the Task Library's snippet asks for.
MAX_RESULTS = 10


class UnusableError(Exception):
    """There is no snippet for this file; the text says why, as the end of a sentence."""


@dataclass(frozen=True)
class Snippet:
    """Code to show; if there is none, ``code`` is empty and ``reason`` says why."""

    title: str
    language: str
    code: str
    reason: str = ""


def snippets(model: Model, variant: Variant) -> list[Snippet]:
    """List the snippets for one artefact."""
    writers: dict[tuple[str, str], Callable[[Variant, float], str]] = {
        ("LiteRT, Python", "Python"): litert_python,
        ("MediaPipe Tasks, Python", "Python"): mediapipe_python,
        ("MediaPipe Tasks, Android", "Kotlin"): mediapipe_kotlin,
        ("Task Library, Android", "Kotlin"): task_library_kotlin,
    }
    found = []
    for (title, language), write in writers.items():
        try:
            code, reason = write(variant, model.score_threshold), ""
        except UnusableError as error:
            code, reason = "", str(error)
        found.append(Snippet(title, language, code, reason))
    if variant.for_npu:
        why = (
            "only an Ethos-U runs it, under TensorFlow Lite Micro or Arm’s driver; anything else "
            "runs the file that it was compiled from"
        )
        return [dataclasses.replace(item, code="", reason=why) for item in found]
    if variant.raw:
        why = (
            "this library reads boxes, classes, scores and count, and the file has raw boxes and"
            " raw scores; the program in Python shows how they are decoded"
        )
        found[1:] = [dataclasses.replace(item, code="", reason=why) for item in found[1:]]
    elif _input_type(variant) == "int8":
        why = "its input is int8, for microcontrollers; this library feeds float32 and uint8 only"
        found[1:] = [dataclasses.replace(item, code="", reason=why) for item in found[1:]]
    return found


def _input_type(variant: Variant) -> str:
    graph = variant.model.graph if variant.model is not None else None
    return graph.tensors[graph.inputs[0]].type if graph is not None and graph.inputs else ""


def litert_python(variant: Variant, threshold: float) -> str:
    """Write a program that runs the artefact with LiteRT as its metadata describes.

    Raw boxes and scores are decoded as the file itself describes it.

    Raises:
        UnusableError: the file's metadata is missing, or its detector is of another form than
            kiln's own, or is fed in a way that there is no code for.
    """
    meta = stage_module("tflite.tflite_meta")
    if variant.metadata is None:
        raise UnusableError("the file's metadata cannot be read")
    if variant.raw:
        return _litert_raw(variant, threshold)
    metadata, graph = variant.metadata, variant.model.graph
    roles = (meta.LOCATION, meta.CATEGORY, meta.SCORE, meta.COUNT)
    try:
        boxes, classes, scores, count = (metadata.output(role) for role in roles)
    except ValueError as error:
        raise UnusableError(str(error)) from error
    tensor = _described_input(metadata, graph)
    if any(graph.tensors[index].type != "float32" for index in graph.outputs):
        raise UnusableError("its outputs are not all float32")
    box = metadata.outputs[boxes].box
    if box is None or (box.type, box.coordinates) != ("boundaries", "ratio"):
        raise UnusableError("its boxes are not fractions of the image")
    label_files = [item.name for item in metadata.outputs[classes].files]
    if not label_files:
        raise UnusableError("it has no label file inside")
    _, height, width, _ = tensor.shape
    feeding = variant.feeding or ASSUMED
    corners = f"box[[{', '.join(map(str, box.index))}]]"
    if feeding.letterboxed:
        corners = f"({corners} * back).clip(0, 1)"
    return _fill(
        "litert.py",
        file=_python(variant.file),
        width=str(width),
        height=str(height),
        score=str(threshold),
        label_file=_python(label_files[0]),
        values=_values(tensor.type, metadata.inputs[0].mean, metadata.inputs[0].std),
        boxes=str(boxes),
        classes=str(classes),
        scores=str(scores),
        count=str(count),
        corners=corners,
        skip=_SKIPPED if feeding.letterboxed else "",
        resize=_resize(feeding),
        pixels=_pixels(feeding),
    )


def _litert_raw(variant: Variant, threshold: float) -> str:
    """Write the program for an artefact without post-processing."""
    meta, how = stage_module("tflite.tflite_meta"), stage_module("tflite.decoding")
    metadata, graph = variant.metadata, variant.model.graph
    try:
        boxes, scores = (metadata.output(name) for name in (meta.RAW_BOXES, meta.RAW_SCORES))
    except ValueError as error:
        raise UnusableError(str(error)) from error
    tensor = _described_input(metadata, graph)
    if how.FILE not in {item.name for item in metadata.outputs[boxes].files}:
        raise UnusableError("it does not say how its boxes are decoded")
    label_files = [item.name for item in metadata.outputs[scores].files]
    if not label_files:
        raise UnusableError("it has no label file inside")
    types = {graph.tensors[index].type for index in graph.outputs}
    if types not in ({"float32"}, {"int8"}):
        raise UnusableError("its outputs are neither float32 nor int8")
    _, height, width, _ = tensor.shape
    feeding = variant.feeding or ASSUMED
    return _fill(
        "litert_raw.py",
        file=_python(variant.file),
        width=str(width),
        height=str(height),
        score=str(threshold),
        label_file=_python(label_files[0]),
        decoding_file=_python(how.FILE),
        values=_values(tensor.type, metadata.inputs[0].mean, metadata.inputs[0].std),
        outputs=_INT8_OUTPUTS if types == {"int8"} else _FLOAT_OUTPUTS,
        boxes=str(boxes),
        scores=str(scores),
        corners="(box[[1, 0, 3, 2]] * back)" if feeding.letterboxed else "box[[1, 0, 3, 2]]",
        resize=_resize(feeding),
        pixels=_pixels(feeding),
    )


def _described_input(metadata: Any, graph: Any) -> Any:
    """Return the tensor of the one picture that a file takes.

    Raises:
        UnusableError: the metadata is about another graph, or the input is no picture.
    """
    sizes = (len(metadata.inputs), len(metadata.outputs)) == (len(graph.inputs), len(graph.outputs))
    tensor = graph.tensors[graph.inputs[0]] if graph.inputs else None
    if not sizes or tensor is None or len(tensor.shape) != 4:
        raise UnusableError("the file's metadata does not describe its graph")
    return tensor


def mediapipe_python(variant: Variant, threshold: float) -> str:
    """Write a program that runs the artefact with MediaPipe Tasks.

    MediaPipe stretches pictures. For a model that wants them letterboxed, the program does that
    first, and maps boxes back.

    Raises:
        UnusableError: the model wants a letterbox that there is no code for.
    """
    values = {"file": _python(variant.file), "score": str(threshold)}
    feeding = variant.feeding or ASSUMED
    if not feeding.letterboxed:
        return _fill("mediapipe.py", **values)
    height, width = _size(variant)
    return _fill(
        "mediapipe_letterbox.py",
        width=str(width),
        height=str(height),
        resize=_resize(feeding),
        pixels=_pixels(feeding),
        **values,
    )


def mediapipe_kotlin(variant: Variant, threshold: float) -> str:
    """Write a function that runs the artefact with MediaPipe Tasks; as the program, letterboxed.

    Raises:
        UnusableError: the model wants a letterbox that there is no code for.
    """
    return _kotlin("mediapipe", variant, threshold, "detection.boundingBox()", "MediaPipe")


def task_library_kotlin(variant: Variant, threshold: float) -> str:
    """Write a function that runs the artefact with the Task Library, letterboxed where needed.

    Raises:
        UnusableError: the model wants a letterbox that there is no code for.
    """
    library = "the Task Library"
    return _kotlin("task_library", variant, threshold, "detection.boundingBox", library)


def verification(models: Sequence[str]) -> str:
    """Write the commands that verify a release of these models."""
    lines = []
    for model in models:
        folder, signature = shlex.quote(model), shlex.quote(f"{model}/{SIGNATURE_FILE}")
        lines.append(
            f"python -m model_signing verify key {folder} --signature {signature} "
            f"--public_key kiln.pub --ignore-paths {signature}"
        )
    return _fill("verify.sh", signatures="\n".join(lines))


def _kotlin(name: str, variant: Variant, threshold: float, box: str, library: str) -> str:
    # JSON's escapes are valid in Kotlin; only the dollar would begin a template.
    literal = json.dumps(variant.file).replace("$", "\\$")
    feeding = variant.feeding or ASSUMED
    letterboxed = feeding.letterboxed
    made = f"    val letterbox = Letterbox(bitmap) // {library} would stretch the bitmap\n"
    return _fill(
        f"{name}.kt",
        android=_imports("android.graphics", _DRAWING if letterboxed else ("Bitmap",)),
        maths=_imports("kotlin.math", ("max", "min", _whole_in_kotlin(feeding)) * letterboxed),
        letterbox=_letterbox_in_kotlin(feeding, *_size(variant)) if letterboxed else "",
        made=made if letterboxed else "",
        picture="letterbox.picture" if letterboxed else "bitmap",
        box=f"letterbox.back({box})" if letterboxed else box,
        file=literal,
        comment_file=plain(variant.file),
        score=str(threshold),
        max_results=str(MAX_RESULTS),
    )


_SKIPPED = """\
        if left == 1 or top == 1:  # wholly in the filling
            continue
"""

_FLOAT_OUTPUTS = """\
outputs = [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]"""

_INT8_OUTPUTS = """\
outputs = []
for item in interpreter.get_output_details():
    scale, zero_point = item["quantization"]
    stored = interpreter.get_tensor(item["index"]).astype(np.float32)
    outputs.append((stored - zero_point) * np.float32(scale))"""

_DRAWING = ("Bitmap", "Canvas", "Color", "Matrix", "Paint", "RectF")


def _imports(package: str, names: Sequence[str]) -> str:
    return "".join(f"import {package}.{name}\n" for name in names)


def _letterbox_in_kotlin(feeding: Feeding, height: int, width: int) -> str:
    if feeding.interpolation != BILINEAR:
        raise UnusableError(f"Android has no {feeding.interpolation} resizing like the training's")
    shift = (
        "        // TensorFlow 1 compares the corners of pixels, Android their centres.\n"
        "        place.postTranslate(0.5f - 0.5f * across, 0.5f - 0.5f * down)\n"
    )
    return _fill(
        "letterbox.kt",
        width=str(width),
        height=str(height),
        whole=_whole_in_kotlin(feeding),
        shift=shift if feeding.sampling == CORNER else "",
        # As the models' authors do it: by the size in whole pixels, or by the scale.
        back="box.left / across, box.top / down, box.right / across, box.bottom / down"
        if feeding.sampling == CORNER
        else "box.left / scale, box.top / scale, box.right / scale, box.bottom / scale",
        fill=", ".join(str(round(value)) for value in feeding.fill or ()),
    )


def _whole_in_kotlin(feeding: Feeding) -> str:
    return "round" if feeding.sampling == CORNER else "truncate"


def _size(variant: Variant) -> tuple[int, int]:
    """Return height and width of the input."""
    if variant.input_size is None:
        raise UnusableError("its input is not one picture, or cannot be read")
    return variant.input_size


def _resize(feeding: Feeding) -> str:
    """Write the Python function that resizes a picture as the model's training did."""
    centre = feeding.sampling != CORNER
    if feeding.interpolation == BILINEAR:
        about = "Bilinear without antialiasing, as the libraries on phones do it."
        where = "np.arange(size, dtype=np.float32) * np.float32(source / size)"
        if centre:
            where = "(np.arange(size, dtype=np.float32) + 0.5) * np.float32(source / size) - 0.5"
        else:
            about = "Bilinear without antialiasing, as TensorFlow 1 does it: from the corner."
    elif feeding.interpolation == NEAREST:
        about = f"The nearest pixel{'' if centre else ', as TensorFlow 1 takes it'}."
        start = "(np.arange(size) + 0.5)" if centre else "np.arange(size)"
        where = f"{start} * np.float32(source / size)"
    elif feeding.interpolation == AREA:
        about, where = (
            "The mean of the area that a pixel covers, the same with either sampling.",
            "",
        )
    else:
        raise UnusableError(f"its pictures are resized by the method {feeding.interpolation!r}")
    name = f"resize_{feeding.interpolation}.py"
    return _fill(name, about=about, where=where).removesuffix("\n")


def _pixels(feeding: Feeding) -> str:
    """Write the Python lines that make the input's pixels of an image."""
    if feeding.fill is None:
        return "pixels = resize(image, HEIGHT, WIDTH)  # float32, 0 to 255"
    # As the models' authors do it: TensorFlow 1 rounds sides, and boxes follow the rounded ones;
    # Model Maker cuts them off, and boxes follow the scale.
    whole, across, down = "round", "width", "height"
    if feeding.sampling != CORNER:
        whole, across, down = "int", "scale / image.shape[1]", "scale / image.shape[0]"
    fill = f"({', '.join(f'{value:.9g}' for value in feeding.fill)})"
    code = _fill("letterbox.py", whole=whole, fill=fill, across=across, down=down)
    return code.removesuffix("\n")


def _python(words: str) -> str:
    """Write a Python string literal, in double quotes where no escape is needed."""
    easy = words.isascii() and words.isprintable() and not set(words) & set('\\"')
    return f'"{words}"' if easy else repr(words)


def _values(kind: str, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    if kind == "uint8":
        return "values = np.rint(pixels).astype(np.uint8)  # normalisation is inside the model"
    if kind == "int8":
        return (
            "# normalisation is inside the model\nvalues = (np.rint(pixels) - 128).astype(np.int8)"
        )
    if kind != "float32" or len(mean) != len(std) or len(mean) not in (1, 3) or 0 in std:
        raise UnusableError(
            f"its input is {kind}, with mean {list(mean)} and deviation {list(std)}"
        )
    # One number where all channels have the same: easier to read, and the same values.
    means, stds = (sorted(set(numbers)) for numbers in (mean, std))
    if len(means) == len(stds) == 1:
        if (means[0], stds[0]) == (0, 1):
            return "values = pixels  # normalisation is inside the model"
        return f"values = (pixels - {means[0]:.9g}) / {stds[0]:.9g}"
    centre, scale = (", ".join(f"{number:.9g}" for number in numbers) for numbers in (mean, std))
    return (
        f"mean = np.array([{centre}], np.float32)\n"
        f"std = np.array([{scale}], np.float32)\n"
        "values = (pixels - mean) / std"
    )


def _fill(template: str, **values: str) -> str:
    """Fill in every ``{{name}}`` of a template in one pass, so values are not expanded."""
    text = (_TEMPLATES / f"{template}.txt").read_text("utf-8")
    return _SLOT.sub(lambda slot: values[slot[1]], text)
