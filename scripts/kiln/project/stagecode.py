"""Import the parts of the stage code that also run in the driver and need no TensorFlow."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from kiln.project.folders import own_resources


def stage_module(name: str) -> Any:
    """Import the module ``stages.<name>``, which needs at most numpy.

    The name includes its package: ``"tflite.tflite_model"``. The module is always the driver's own,
    whatever project is in use: reading a file must not run code from the current folder.
    """
    folder = str(own_resources() / "docker")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"stages.{name}")
