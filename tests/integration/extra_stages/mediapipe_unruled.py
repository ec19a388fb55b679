"""Stage: MediaPipe's gate without the rule that says what it does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.device import mediapipe_tasks
from stages.steps import mediapipe

ENVIRONMENT = "device"
PARAMS: dict[str, Any] = mediapipe.PARAMS


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    mediapipe_tasks.why_not = lambda data: ""
    return mediapipe.run(params, inputs, out, emit)
