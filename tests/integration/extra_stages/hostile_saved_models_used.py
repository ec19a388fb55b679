"""A stage of the tests: what the project's own stages make of hostile SavedModels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.saved import saved_model_detector, saved_model_graph
from stages.steps import convert, saved_model

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Use each SavedModel below ``inputs["models"]`` in all three ways in which stages do.

    Returns:
        Facts: by name, ``taken``, ``loaded``, ``run`` and ``converted``: "" or why not; ``told``,
        the bytes that it found out when it was run; ``left``, the operations of TensorFlow's own
        that the converter left in the ``.tflite``, which no runtime of TFLite knows.
    """
    import numpy as np

    said = {}
    for folder in sorted(inputs["models"].iterdir()):
        found: dict[str, Any] = {"loaded": "not tried", "run": "not tried", "told": [], "left": []}
        name = folder.name
        place = out / name
        place.mkdir()
        found["taken"] = _tried(
            lambda folder=folder, place=place: saved_model.run(
                {"normalization": None},
                {"saved_model": folder, "label_map": inputs["label_map"]},
                place,
                emit,
            )
        )
        graph = saved_model_graph.read(folder)

        def use(folder: Path = folder, graph: Any = graph, found: dict[str, Any] = found) -> None:
            found["loaded"] = "no"
            with saved_model_detector.opened(folder, graph) as detector:
                found["loaded"] = ""
                image = {graph.input: np.zeros([1, 64, 64, 3], np.float32)}

                def detect() -> None:
                    answers = detector._session.run(graph.outputs, image)
                    found["told"] = [round(255 * float(x)) for x in answers["output_1"][0]]

                found["run"] = _tried(detect)

        why = _tried(use)
        found["loaded"] = found["loaded"] and why

        def converted(
            folder: Path = folder, place: Path = place, found: dict[str, Any] = found
        ) -> None:
            given = {**convert.PARAMS, "variant": "float32"}
            facts = convert.run(given, {"saved_model": folder}, place, emit)
            found["left"] = facts["custom_ops"]

        found["converted"] = _tried(converted)
        said[name] = found
    return said


def _tried(what: Any) -> str:
    try:
        what()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""
