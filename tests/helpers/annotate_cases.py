"""What the pinned results in ``tests/fixtures`` are made from."""

from __future__ import annotations

import struct
from typing import Any

from stages.tflite import decoding

NORMALIZATION = {"mean": [127.5], "std": [127.5]}
#: The four quarters of the image, as :mod:`make_toy_detectors` has them.
_ANCHORS = [(y, x, 0.5, 0.5) for y in (0.25, 0.75) for x in (0.25, 0.75)]
DECODING = decoding.Decoding(
    anchors=b"".join(struct.pack("<4f", *anchor) for anchor in _ANCHORS),
    scales=(10.0, 10.0, 5.0, 5.0),
    score_converter="SIGMOID",
    classes=3,
    suppression=decoding.Suppression(None, 0.5, 4, 4),
)
COMMON: dict[str, Any] = {"num_classes": 3, "normalization": NORMALIZATION, "name": "Toy"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "toy_ssd_annotated": (
        "toy_ssd",
        {**COMMON, "architecture": "ssd", "author": "tflite-kiln", "license": "Apache-2.0"},
    ),
    "toy_ssd_uint8_annotated": ("toy_ssd_uint8", {**COMMON, "architecture": "ssd"}),
    "toy_centernet_annotated": (
        "toy_centernet",
        {**COMMON, "architecture": "centernet", "score_threshold": 0.25},
    ),
    "toy_centernet_tf1": (
        "toy_centernet",
        {**COMMON, "architecture": "centernet", "output_order": "tf1", "role_names": True},
    ),
    "toy_raw_annotated": ("toy_raw", {**COMMON, "architecture": "ssd", "postprocess": "none"}),
    "toy_ssd_seed": (
        "toy_ssd",
        {
            "num_classes": 3,
            "architecture": "ssd",
            "profile": "seed",
            "label_file_name": "toy_labels.pbtxt",
        },
    ),
}
