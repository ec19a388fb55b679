"""A stage of the tests: an artefact with one mistake in it, of those that people make."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from stages.files import feeding, labelmap
from stages.protocol.request import REQUIRED
from stages.tflite import metadata_writer, output_roles, packed_files, tflite_model

ENVIRONMENT = "metadata"

PARAMS = {
    "kind": REQUIRED,  # one of KINDS
    "architecture": REQUIRED,
    "num_classes": REQUIRED,
    "normalization": REQUIRED,  # the right one
    "feeding": REQUIRED,  # the right one
}

KINDS = (
    "genuine",
    "zero-one",  # mean 0, std 255
    "raw-pixels",  # mean 0, std 1
    "minus-one-one",  # mean 127.5, std 127.5
    "pbtxt",
    "labels-off-by-one",
    "labels-shuffled",
    "labels-without-gaps",
    "boxes-xy",
    "classes-scores",
    "fed-otherwise",  # a letterboxed model described as stretched, or the other way round
    "half-restored",
    "no-metadata",
    "cut-short",
)

_NORMALIZATIONS = {
    "zero-one": ((0.0,) * 3, (255.0,) * 3),
    "raw-pixels": ((0.0,) * 3, (1.0,) * 3),
    "minus-one-one": ((127.5,) * 3, (127.5,) * 3),
}
_LARGE = 512  # bytes of a constant that is a kernel


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model.tflite``: ``inputs["model"]`` annotated anew, with the mistake."""
    kind = params["kind"]
    assert kind in KINDS
    bare, _ = packed_files.split(inputs["model"].read_bytes())
    model = tflite_model.read(bare)
    outputs = output_roles.derive(model, params["architecture"])
    label_map = inputs["label_map"]
    lines = labelmap.lines(labelmap.load(label_map), params["num_classes"], "label map")
    norm = params["normalization"]
    mean, std = _NORMALIZATIONS.get(kind, (tuple(norm["mean"]), tuple(norm["std"])))
    labels = _labels(kind, lines, label_map)
    if kind == "classes-scores":
        outputs[output_roles.CLASSES], outputs[output_roles.SCORES] = (
            outputs[output_roles.SCORES],
            outputs[output_roles.CLASSES],
        )
    if kind == "half-restored":
        bare = _half_fresh(bare, model)
    how = feeding.read(params["feeding"])
    if kind == "fed-otherwise":
        other = {"letterbox": "stretch", "stretch": "letterbox"}[how.fit]
        how = feeding.usual(other, how)
    declaration = metadata_writer.Declaration(
        name="a detector",
        description="",
        version="",
        author="",
        license="",
        mean=mean,
        std=std,
        label_file="labelmap.txt",
        score_threshold=None,
        image_files={feeding.FILE: how.as_file()},
    )
    right = metadata_writer.BOX_INDEX
    if kind == "boxes-xy":
        metadata_writer.BOX_INDEX = (0, 1, 2, 3)
    try:
        data = metadata_writer.annotate(bare, declaration, outputs, labels, out)
    finally:
        metadata_writer.BOX_INDEX = right
    if kind == "no-metadata":
        data = bytes(bare).replace(b"TFLITE_METADATA", b"TFLITE_NOTHING_")
    if kind == "cut-short":
        data = data[: len(data) // 2]
    (out / "model.tflite").write_bytes(data)
    return {}


def _labels(kind: str, lines: list[str], label_map: Path) -> bytes:
    if kind == "pbtxt":
        return label_map.read_bytes()
    if kind == "labels-off-by-one":
        lines = ["background", *lines[:-1]]
    if kind == "labels-shuffled":
        lines = sorted(lines, reverse=True)
    if kind == "labels-without-gaps":
        lines = [line for line in lines if line != labelmap.GAP]
    return "".join(f"{line}\n" for line in lines).encode()


def _half_fresh(bare: bytes, model: tflite_model.Model) -> bytes:
    """Every second kernel as an initialiser makes it: what is left where no value was restored."""
    data = bytearray(bare)
    seen: set[int] = set()
    for tensor in model.graph.tensors:
        buffer = model.buffers[tensor.buffer]
        if tensor.type != "float32" or len(buffer) < _LARGE or tensor.buffer in seen:
            continue
        seen.add(tensor.buffer)
        if len(seen) % 2:
            start = data.find(bytes(buffer))
            values = bytearray(buffer)
            rows = [bytes(values[at : at + 4]) for at in range(0, len(values), 4)]
            random.Random(len(seen)).shuffle(rows)  # the same spread, in no order
            data[start : start + len(values)] = b"".join(rows)
    return bytes(data)
