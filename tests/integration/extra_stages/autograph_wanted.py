"""A stage of the tests: the export of a model whose Python code has a condition on a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.steps import export

ENVIRONMENT = "main"

PARAMS: dict[str, Any] = {}


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Export ``inputs["checkpoint"]`` as it is, and with such a condition in ``predict``.

    Returns:
        Facts: ``rewritten``: how often AutoGraph rewrote code in the first export; ``models``:
        how many models each of the two built; ``conditions``: kinds of conditional operations in
        each graph.
    """
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    told: dict[str, Any] = {"models": [], "conditions": []}
    for name, conditional in (("plain", False), ("conditional", True)):
        folder = out / name
        folder.mkdir()
        with _counted() as rewritten, _built(tf, conditional) as models:
            export.run(dict(export.PARAMS), inputs, folder, emit)
        told["models"].append(len(models))
        told["conditions"].append(_conditions(tf, folder / "saved_model"))
        told.setdefault("rewritten", len(rewritten))
    return told


@contextmanager
def _counted() -> Iterator[list[Any]]:
    """Collect what AutoGraph rewrites of the model's package."""
    from tensorflow.python.autograph.impl import api

    original = api._convert_actual
    found: list[Any] = []

    def convert(entity: Any, context: Any) -> Any:
        if "meta_architectures" in getattr(entity, "__module__", ""):
            found.append(entity)
        return original(entity, context)

    api._convert_actual = convert
    try:
        yield found
    finally:
        api._convert_actual = original


@contextmanager
def _built(tf: Any, conditional: bool) -> Iterator[list[Any]]:
    """Collect the models that are built; give each such a condition, if wanted."""
    from object_detection.builders import model_builder

    original = model_builder.build
    models: list[Any] = []

    def build(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        predict = model.predict

        def chosen(preprocessed_inputs: Any, true_image_shapes: Any) -> Any:
            if tf.reduce_max(preprocessed_inputs) > 1000.0:  # never, but no tracer can know
                preprocessed_inputs = preprocessed_inputs * 0.0
            return predict(preprocessed_inputs, true_image_shapes)

        if conditional:
            model.predict = chosen
        models.append(model)
        return model

    model_builder.build = build
    try:
        yield models
    finally:
        model_builder.build = original


def _conditions(tf: Any, folder: Path) -> list[str]:
    graph = tf.saved_model.load(str(folder)).signatures["serving_default"].graph.as_graph_def()
    functions = graph.library.function
    kinds = {node.op for function in functions for node in function.node_def}
    return sorted(kinds & {"If", "StatelessIf"})
