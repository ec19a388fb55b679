"""Load the parts of the stage code that also run in the driver: readers without TensorFlow."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from kiln.core.errors import UsageError
from kiln.core.project import Project

_OWN = Path(__file__).resolve().parents[3] / "docker"


def stage_module(name: str) -> Any:
    """Import module ``stages.<name>`` of the project's checkout (standard library, maybe numpy).

    The name includes its package: ``"tflite.tflite_model"``.

    Without a project in use (:meth:`kiln.core.project.Project.find`), the checkout that contains
    this package is used.

    Raises:
        UsageError: neither exists.
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
