"""A stage of the tests: what makes the outputs of a SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.saved import output_names

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Return the operations by the outputs' tensors, of ``inputs["saved_model"]``, as facts."""
    return dict(output_names.operations(inputs["saved_model"]))
