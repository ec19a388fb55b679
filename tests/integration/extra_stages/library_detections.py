"""A stage of the tests: what the Task Library finds, uncompared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.steps import task_library

ENVIRONMENT = "metadata"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run ``inputs["model"]`` on ``inputs["pictures"]`` (``.npy`` files, uint8 [h, w, 3]).

    Writes ``out/detections.json`` as the detect stage does.

    Returns:
        Facts: ``refused``: the library's own words, or None.
    """
    pictures = {path.stem: path for path in sorted(inputs["pictures"].glob("*.npy"))}
    try:
        found = task_library.detections(inputs["model"], pictures)
    except (ValueError, RuntimeError) as error:
        return {"refused": str(error)}
    (out / "detections.json").write_text(json.dumps({"images": found}), encoding="utf-8")
    return {"refused": None}
