"""The parts of the stage code that also run in the driver: readers that need no TensorFlow."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from kiln.project import Project


def stage_module(name: str) -> Any:
    """Module ``stages.<name>`` of the project's checkout (standard library, at most numpy).

    Raises:
        UsageError: there is no checkout (see :meth:`kiln.project.Project.find`).
    """
    folder = str(Project.find().docker)
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"stages.{name}")
