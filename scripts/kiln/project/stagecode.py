"""The parts of the stage code that also run in the driver: readers that need no TensorFlow."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from kiln.project.folders import own_resources


def stage_module(name: str) -> Any:
    """Module ``stages.<name>`` (standard library, at most numpy).

    The name leads through its package: ``"tflite.tflite_model"``. It is the driver's own, whatever
    project is in use: looking at a file must not run code of the folder one happens to be in.
    """
    folder = str(own_resources() / "docker")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(f"stages.{name}")
