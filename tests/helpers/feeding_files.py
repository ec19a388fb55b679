"""Copies of ``.tflite`` files that state how to feed them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stages.tflite import packed_files

LETTERBOX = {
    "fit": "letterbox",
    "anchor": "top-left",
    "fill": [0, 0, 0],
    "sampling": "corner",
    "interpolation": "bilinear",
}
STRETCH = {
    "fit": "stretch",
    "anchor": None,
    "fill": None,
    "sampling": "half-pixel",
    "interpolation": "bilinear",
}


def with_feeding(data: bytes, feeding: Mapping[str, Any] | bytes) -> bytes:
    """``data`` with ``feeding.json`` beside what is packed in it; bytes are packed as they are."""
    content = feeding if isinstance(feeding, bytes) else json.dumps(feeding).encode()
    model, files = packed_files.split(data)
    return packed_files.pack(model, {**files, "feeding.json": content})
