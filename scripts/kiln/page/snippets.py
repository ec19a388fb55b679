"""Write sample code that runs an artefact, with the artefact's own values filled in.

The templates are the files in ``snippets/``; the tests run the Python ones.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kiln.core.plain_text import plain
from kiln.page.contents import SIGNATURE_FILE, Model, Variant
from kiln.project.stagecode import stage_module

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
    threshold = model.score_threshold
    found = [
        Snippet("MediaPipe Tasks, Python", "Python", mediapipe_python(variant, threshold)),
        Snippet("MediaPipe Tasks, Android", "Kotlin", _kotlin("mediapipe", variant, threshold)),
        Snippet("Task Library, Android", "Kotlin", _kotlin("task_library", variant, threshold)),
    ]
    if _input_type(variant) == "int8":
        why = "its input is int8, for microcontrollers; this library feeds float32 and uint8 only"
        found = [dataclasses.replace(item, code="", reason=why) for item in found]
    try:
        code, reason = litert_python(variant, threshold), ""
    except UnusableError as error:
        code, reason = "", str(error)
    return [Snippet("LiteRT, Python", "Python", code, reason), *found]


def _input_type(variant: Variant) -> str:
    graph = variant.model.graph if variant.model is not None else None
    return graph.tensors[graph.inputs[0]].type if graph is not None and graph.inputs else ""


def litert_python(variant: Variant, threshold: float) -> str:
    """Write a program that runs the artefact with LiteRT as its metadata describes.

    Raises:
        UnusableError: the file's metadata is missing, or its detector is of another form than
            kiln's own.
    """
    meta = stage_module("tflite.tflite_meta")
    if variant.metadata is None:
        raise UnusableError("the file's metadata cannot be read")
    metadata, graph = variant.metadata, variant.model.graph
    roles = (meta.LOCATION, meta.CATEGORY, meta.SCORE, meta.COUNT)
    try:
        boxes, classes, scores, count = (metadata.output(role) for role in roles)
    except ValueError as error:
        raise UnusableError(str(error)) from error
    sizes = (len(metadata.inputs), len(metadata.outputs)) == (len(graph.inputs), len(graph.outputs))
    tensor = graph.tensors[graph.inputs[0]] if graph.inputs else None
    if not sizes or tensor is None or len(tensor.shape) != 4:
        raise UnusableError("the file's metadata does not describe its graph")
    if any(graph.tensors[index].type != "float32" for index in graph.outputs):
        raise UnusableError("its outputs are not all float32")
    box = metadata.outputs[boxes].box
    if box is None or (box.type, box.coordinates) != ("boundaries", "ratio"):
        raise UnusableError("its boxes are not fractions of the image")
    label_files = [item.name for item in metadata.outputs[classes].files]
    if not label_files:
        raise UnusableError("it has no label file inside")
    _, height, width, _ = tensor.shape
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
        order=", ".join(map(str, box.index)),
    )


def mediapipe_python(variant: Variant, threshold: float) -> str:
    """Write a program that runs the artefact with MediaPipe Tasks."""
    return _fill("mediapipe.py", file=_python(variant.file), score=str(threshold))


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


def _kotlin(name: str, variant: Variant, threshold: float) -> str:
    # JSON's escapes are valid in Kotlin; only the dollar would begin a template.
    literal = json.dumps(variant.file).replace("$", "\\$")
    return _fill(
        f"{name}.kt",
        file=literal,
        comment_file=plain(variant.file),
        score=str(threshold),
        max_results=str(MAX_RESULTS),
    )


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
