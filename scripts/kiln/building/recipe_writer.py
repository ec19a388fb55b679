"""Write a recipe as TOML, for ``kiln init`` and ``kiln convert``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kiln.core.errors import UsageError
from kiln.recipes.recipe import (
    Allowance,
    Architecture,
    InferenceIo,
    LiteSpec,
    OutputOrder,
    Postprocess,
    Variant,
)


@dataclass(frozen=True)
class Arguments:
    """A recipe's content, complete.

    Args:
        suppression: how overlapping boxes are suppressed: keys of a recipe's [export].
        folder: the recipe's folder; paths are relative to it; ``None``: absolute paths.
        pins: name of a source file -> its size in bytes and SHA-256.
    """

    name: str
    title: str
    description: str
    licence: str
    author: str
    version: str
    architecture: Architecture
    label_map: Path
    variants: tuple[Variant, ...]
    checkpoint: Path | None = None
    saved_model: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pipeline_config: Path | None = None
    spec: LiteSpec | None = None
    calibration: Path | None = None
    images: Path | None = None
    max_detections: int | None = None
    score_threshold: float | None = None
    image_size: tuple[int, int] | None = None
    output_order: OutputOrder = "tf2"
    suppression: dict[str, bool | float | int] = field(default_factory=dict)
    inference_io: InferenceIo = "uint8"
    postprocess: Postprocess = "tflite"
    float_layers: tuple[str, ...] = ()
    allow: tuple[Allowance, ...] = ()
    folder: Path | None = None
    pins: dict[str, tuple[int, str]] = field(default_factory=dict)


def recipe_text(arguments: Arguments) -> str:
    """Write the recipe as TOML that :func:`kiln.recipes.recipe.load` reads back unchanged.

    Raises:
        UsageError: a text or path is not Unicode.
    """
    it = arguments
    lines = [
        "schema = 1",
        f"name = {_string(it.name)}",
        "# Inside the artefacts: a change to one of the next five changes their bytes.",
        f"title = {_string(it.title)}",
        f"description = {_string(it.description)}",
        f"licence = {_string(it.licence)}",
        f"author = {_string(it.author)}",
        f"version = {_string(it.version)}",
        f"architecture = {_string(it.architecture)}",
        f'image = "{"odapi" if it.spec is None else "modelmaker"}"',
        f"variants = {_strings(it.variants)}",
    ]
    if it.allow:
        lines.append(f"allow = {_strings(it.allow)}")
    if it.spec is not None:
        lines += ["", "[efficientdet]", f"spec = {_string(it.spec)}"]
    lines += ["", *_source_lines(it)]
    if it.pipeline_config is not None:
        lines.append(f"pipeline_config = {_path(it, it.pipeline_config)}")
    if it.mean is not None and it.std is not None:
        mean, std = (", ".join(repr(float(value)) for value in part) for part in (it.mean, it.std))
        lines.append(f"normalization = {{ mean = [{mean}], std = [{std}] }}")
    if it.pins:
        lines += ["", "# Only these bytes will do. `kiln init --force` pins others."]
    for name, (size, digest) in it.pins.items():
        lines += ["[[source.files]]", f"path = {_string(name)}", f"size = {size}"]
        lines += [f"sha256 = {_string(digest)}", ""]
    if not it.pins:
        lines.append("")
    lines += ["[labels]", f"file = {_path(it, it.label_map)}"]
    export = []
    if it.max_detections is not None:
        export.append(f"max_detections = {it.max_detections}")
    if it.image_size is not None:
        export.append(f"image_size = [{it.image_size[0]}, {it.image_size[1]}]")
    if it.score_threshold is not None:
        export.append(f"score_threshold = {float(it.score_threshold)!r}")
    if it.output_order != "tf2":
        export.append(f"output_order = {_string(it.output_order)}")
    export += [f"{key} = {json.dumps(value)}" for key, value in it.suppression.items()]
    if it.inference_io != "uint8":
        export.append(f"inference_io = {_string(it.inference_io)}")
    if it.postprocess != "tflite":
        export.append(f"postprocess = {_string(it.postprocess)}")
    if export:
        lines += ["", "[export]", *export]
    if it.calibration is not None:
        lines += ["", "[calibration]", f"images = {_path(it, it.calibration)}"]
    if it.float_layers:
        lines += ["", "[int8]", f"float_layers = {_strings(it.float_layers)}"]
    if it.images is not None:
        lines += ["", "[check]", f"images = {_path(it, it.images)}"]
    return "\n".join(lines) + "\n"


def _source_lines(it: Arguments) -> list[str]:
    if it.saved_model is not None:
        return ["[source]", 'kind = "saved_model"', f"path = {_path(it, it.saved_model)}"]
    assert it.checkpoint is not None  # settle's own check
    stands = "# A folder stands for the checkpoint that TensorFlow's state file names in it."
    return [
        *([] if it.pins else [stands]),
        "[source]",
        'kind = "local"',
        f"checkpoint = {_path(it, it.checkpoint)}",
    ]


def _path(it: Arguments, path: Path) -> str:
    """Write a path for the recipe: relative where both are in one tree of this machine."""
    # Resolve links in the parents, so that '..' leads back the same way; keep the last part as
    # named.
    plain = path.name not in ("", "..")
    real = Path(os.path.realpath(path.parent), path.name) if plain else Path(os.path.realpath(path))
    if it.folder is None:
        return _string(str(real))
    base = Path(os.path.realpath(it.folder))
    if Path(os.path.commonpath([real, base])) == Path(base.anchor):
        return _string(str(real))
    return _string(os.path.relpath(real, base))


def _strings(items: Sequence[str]) -> str:
    return f"[{', '.join(_string(item) for item in items)}]"


def _string(text: str) -> str:
    """Quote a basic string of TOML.

    Raises:
        UsageError: the text is not Unicode, such as a file name in another encoding.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"{os.fsencode(text)!r} is not text in UTF-8, which a recipe must be.",
            "Rename the file or folder, or use another text.",
        ) from None
    escaped = (_escape(character) for character in text)
    return f'"{"".join(escaped)}"'


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if ord(character) < 32 or ord(character) == 127:
        return f"\\u{ord(character):04X}"
    return character
