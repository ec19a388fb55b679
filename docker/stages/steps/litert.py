"""Stage: compare with the detections of today's LiteRT, by both of its APIs.

Apps run a file in its Interpreter, or in its present API, CompiledModel. Both are to find what
TensorFlow found in the same pixels, and the same as each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.detect import detector
from stages.device import apart, compiled_model
from stages.gates import runtime_check, runtimes
from stages.gates.result import Gate
from stages.protocol.failures import StageError

ENVIRONMENT = "device"

PARAMS = runtime_check.PARAMS

DISTRIBUTION = "ai-edge-litert"

INTERPRETER, COMPILED = "Interpreter", "CompiledModel"

APIS: dict[str, Callable[..., tuple[Any, str]]] = {
    INTERPRETER: detector.make_interpreter,
    COMPILED: compiled_model.make,
}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Run ``inputs["model"]`` on ``inputs["pixels"]`` and compare with ``inputs["found"]``.

    Inputs: see :mod:`stages.gates.runtime_check`.

    Writes ``out/check.json``: ``{"gates": [...]}``.

    Returns:
        Facts: ``gates``: name -> status; ``runtime``: name and version.
    """
    data = inputs["model"].read_bytes()
    pictures, question = asked(runtimes.LITERT, data, params, inputs)
    gate = examine(data, pictures, question)
    return written(out, gate, DISTRIBUTION)


def asked(
    name: str, data: bytes, params: dict[str, Any], inputs: dict[str, Path]
) -> tuple[dict[str, Path], runtimes.Question]:
    """Return the pictures of a gate, by image, and what is expected to be found in them."""
    pictures, expected = runtime_check.fed(inputs)
    question = runtimes.Question(
        expected=expected,
        threshold=params["score_threshold"],
        own_threshold=params["nms_score_threshold"],
        room=runtimes.room_of(data),
        limits=runtimes.LIMITS[name, runtimes.arithmetic(data)],
    )
    return pictures, question


def written(out: Path, gate: Gate, distribution: str) -> dict[str, Any]:
    """Write a gate's result; return the facts of its stage."""
    return {**runtime_check.write(out, gate), "runtime": f"{distribution} {version(distribution)}"}


def version(distribution: str) -> str:
    """Return the version of an installed distribution."""
    from importlib import metadata

    return metadata.version(distribution)


def examine(data: bytes, pictures: dict[str, Path], question: runtimes.Question) -> Gate:
    """Compute the gate's result.

    Args:
        data: the whole ``.tflite`` file.
        pictures: by image, a ``.npy`` file: uint8 [height, width, 3] of the model's input size.
        question: what is expected to be found in them.
    """
    gate = Gate(runtimes.LITERT)
    name = f"LiteRT {version(DISTRIBUTION)}"
    gate.figures |= {
        "runtime": DISTRIBUTION,
        "version": version(DISTRIBUTION),
        "images": len(pictures),
    }
    found: dict[str, runtimes.Detections] = {}
    figures: dict[str, dict[str, Any]] = {}
    for api, make in APIS.items():
        answer = detections(data, pictures, make, question.threshold / 2)
        if refused(gate, f"{name}'s {api}", answer):
            continue
        found[api] = answer["detections"]
        figures[api] = runtimes.judge(gate, f"{name}'s {api}", question, found[api])
    gate.figures.update(figures.get(INTERPRETER, {}))
    if COMPILED in figures:
        gate.figures["compiled_model"] = figures[COMPILED]
    if found.keys() == {INTERPRETER, COMPILED} and not gate.problems:
        _hold_together(gate, name, question, found)
    if gate.problems:
        gate.summary = "; ".join(dict.fromkeys(problem.seen for problem in gate.problems))
    else:
        said = runtimes.said_of(figures[INTERPRETER], len(pictures))
        gate.summary = f"{name}, by either API ({' and '.join(APIS)}), {said}"
    return gate


def detections(
    data: bytes,
    pictures: dict[str, Path],
    make: Callable[..., tuple[Any, str]],
    score_threshold: float,
) -> Any:
    """Detect objects in a child process; :class:`stages.device.apart.Died` if it does not survive.

    Returns:
        ``{"detections": {image: [...]}}``, or ``{"refused": why}``.
    """
    import numpy as np

    compiled_model.load()  # once for all children

    def work(tell: apart.Tell) -> Any:
        found = {}
        try:
            model = detector.Detector(data, make=make)
            for image, path in pictures.items():
                picture = np.load(path, allow_pickle=False)
                found[image] = model.detect(picture, score_threshold)
                tell(image)
        except StageError as error:
            return {"refused": error.message}
        except Exception as error:  # a runtime's own, of many classes
            return {"refused": " ".join(str(error).split()) or type(error).__name__}
        return {"detections": found}

    return apart.run(work)


def refused(gate: Gate, title: str, answer: Any) -> bool:
    """Add a problem if a runtime gave no detections; return whether it did not."""
    if isinstance(answer, apart.Died):
        verb = "did not answer" if answer.code == "timeout" else "did not survive the model"
        gate.problem(
            answer.code, "detections", f"{title} {verb}: {answer.reason}", f"{title} {verb}."
        )
        return True
    if "refused" in answer:
        gate.problem(
            "refused", "detections", f"{title}: {answer['refused']}", f"{title} refuses the model."
        )
        return True
    return False


def _hold_together(
    gate: Gate, name: str, question: runtimes.Question, found: dict[str, runtimes.Detections]
) -> None:
    """Compare the APIs with each other: both are the same code on the same input."""
    if question.threshold >= 1:
        return
    same = replace(question, expected=found[INTERPRETER], limits=runtimes.EXACT)
    between = Gate(gate.name)
    runtimes.judge(between, f"{name}'s {COMPILED}", same, found[COMPILED])
    for problem in between.problems:
        gate.problem(
            "apis-differ",
            f"what {INTERPRETER} finds: {problem.expected}",
            problem.seen,
            f"{name} runs the file differently by its two APIs.",
        )
