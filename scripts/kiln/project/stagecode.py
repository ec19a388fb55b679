"""The parts of the stage code that also run in the driver: readers that need no TensorFlow."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from kiln.core.errors import UsageError
from kiln.project.folders import Project

_OWN = Path(__file__).resolve().parents[3] / "docker"


def stage_module(name: str) -> Any:
    """Module ``stages.<name>`` of the project's checkout (standard library, at most numpy).

    The name leads through its package: ``"tflite.tflite_model"``.

    Where no project is in use (:meth:`kiln.project.folders.Project.find`), of the one this package
    is in.

    Raises:
        UsageError: there is neither.
    """
    try:
        folder = str(Project.find().docker)
    except UsageError:
        if not (_OWN / "stages").is_dir():
            raise
        folder = str(_OWN)
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"stages.{name}")
