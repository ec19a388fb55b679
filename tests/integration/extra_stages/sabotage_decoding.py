"""A stage of the tests: a file of raw boxes with a mistake in how it says to decode them."""

from __future__ import annotations

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
)


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write ``out/model.tflite``: ``inputs["model"]`` with the mistake."""
    kind = params["kind"]
    assert kind in KINDS
    bare, files = packed_files.split(inputs["model"].read_bytes())
    how = decoding.parse(files)
    if kind == "anchors-shifted":
        files |= replace(how, anchors=how.anchors[16:] + how.anchors[:16]).as_files()
    if kind == "scales-swapped":
        y, x, height, width = how.scales
        files |= replace(how, scales=(height, width, y, x)).as_files()
    (out / "model.tflite").write_bytes(packed_files.pack(bare, files))
    return {}
