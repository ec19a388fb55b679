"""A stage of the tests: a model folder with another configuration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Copy ``inputs["model"]`` to ``out/model`` with ``inputs["pipeline_config"]``."""
    shutil.copytree(inputs["model"], out / "model")
    shutil.copyfile(inputs["pipeline_config"], out / "model" / "pipeline.config")
    return {}
