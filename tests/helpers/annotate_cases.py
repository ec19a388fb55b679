"""What the pinned results in ``tests/fixtures`` are made from."""

from __future__ import annotations

from typing import Any

NORMALIZATION = {"mean": [127.5], "std": [127.5]}
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
