"""What the stages that run an artefact in another runtime have in common: parameters and files.

Their inputs are ``model``, a ``.tflite``, and ``pixels`` and ``found``, what
:mod:`stages.steps.check` wrote of it (``pixels/`` and ``check.json``). Standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.gates.result import Gate

PARAMS: dict[str, Any] = {
    "score_threshold": 0.3,  # as the check compared with
    "nms_score_threshold": 0.0,  # of the model's own post-processing
}

RESULT_FILE = "check.json"


def fed(inputs: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Any]]:
    """Return the pictures (``.npy`` files) and what TensorFlow found in them, by image.

    They are of whole pixels: in other ones a float model detects other things.
    """
    expected = json.loads(inputs["found"].read_text(encoding="utf-8"))["rounded"]
    return {image: inputs["pixels"] / f"{image}.npy" for image in sorted(expected)}, expected


def write(out: Path, gate: Gate) -> dict[str, Any]:
    """Write ``out/check.json``, ``{"gates": [...]}``; return the fact ``gates``: name -> status."""
    text = json.dumps({"gates": [gate.as_json()]}, indent=1, sort_keys=True, allow_nan=False)
    (out / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    return {"gates": {gate.name: gate.status}}
