"""Stage: compare with the detections of MediaPipe's object detector.

MediaPipe has its own metadata reader, so this also checks the metadata against an independent
implementation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.device import apart, mediapipe_tasks
from stages.gates import runtime_check, runtimes
from stages.gates.result import Gate
from stages.steps import litert

ENVIRONMENT = "device"

PARAMS = runtime_check.PARAMS


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run ``inputs["model"]`` on ``inputs["pixels"]`` and compare with ``inputs["found"]``.

    Inputs, outputs and facts are those of :mod:`stages.steps.litert`.
    """
    data = inputs["model"].read_bytes()
    why = mediapipe_tasks.why_not(data)
    if why:
        gate = Gate(runtimes.MEDIAPIPE, skipped=why)
    else:
        pictures, question = litert.asked(runtimes.MEDIAPIPE, data, params, inputs)
        gate = examine(data, pictures, question)
    return litert.written(out, gate, "mediapipe")


def examine(data: bytes, pictures: dict[str, Path], question: runtimes.Question) -> Gate:
    """Compute the gate's result; arguments as of :func:`stages.steps.litert.examine`."""
    gate = Gate(runtimes.MEDIAPIPE)
    title = f"MediaPipe {mediapipe_tasks.version()}"
    gate.figures |= {
        "runtime": "mediapipe",
        "version": mediapipe_tasks.version(),
        "images": len(pictures),
    }
    answer = detections(data, pictures, question.threshold / 2)
    if litert.refused(gate, title, answer):
        gate.summary = gate.problems[0].seen
        return gate
    figures = runtimes.judge(gate, title, question, answer["detections"])
    gate.figures.update(figures)
    if gate.problems:
        gate.summary = "; ".join(dict.fromkeys(problem.seen for problem in gate.problems))
    else:
        gate.summary = f"{title} {runtimes.said_of(figures, len(pictures))}"
    return gate


def detections(data: bytes, pictures: dict[str, Path], score_threshold: float) -> Any:
    """Detect objects in a child process; returns as :func:`stages.steps.litert.detections`."""
    mediapipe_tasks.load()  # once for all children

    def work(tell: apart.Tell) -> Any:
        try:
            return {"detections": mediapipe_tasks.detect(data, pictures, score_threshold)}
        except Exception as error:  # the runtime's own, of many classes
            return {"refused": mediapipe_tasks.words(error)}

    return apart.run(work)
