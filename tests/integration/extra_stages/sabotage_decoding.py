"""A stage of the tests: a file of raw boxes with a mistake in how it says to decode them."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.protocol.request import REQUIRED
from stages.tflite import decoding, packed_files

ENVIRONMENT = "main"

PARAMS = {"kind": REQUIRED}  # one of KINDS

KINDS = (
    "anchors-shifted",  # each is that of its neighbour, as when a layer's first one is left out
    "scales-swapped",  # those of centres and of sizes
    "anchors-stale",  # other anchors than the description is about
    "no-decoding",
)


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model.tflite``: ``inputs["model"]`` with the mistake."""
    kind = params["kind"]
    assert kind in KINDS
    bare, files = packed_files.split(inputs["model"].read_bytes())
    how = decoding.parse(files)
    numbers = struct.unpack(f"<{4 * how.count}f", how.anchors)
    shifted = struct.pack(f"<{4 * how.count}f", *numbers[4:], *numbers[:4])
    if kind == "anchors-shifted":
        files |= replace(how, anchors=shifted).as_files()
    if kind == "scales-swapped":
        y, x, height, width = how.scales
        files |= replace(how, scales=(height, width, y, x)).as_files()
    if kind == "anchors-stale":
        files[decoding.ANCHORS_FILE] = shifted
    if kind == "no-decoding":
        del files[decoding.FILE]
    (out / "model.tflite").write_bytes(packed_files.pack(bare, files))
    return {}
