"""Save a SavedModel with one signature and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def lean_save(saved_model: Any) -> Iterator[list[Any]]:
    """While active, an exporter's SavedModel holds its signature and nothing else.

    Otherwise it would include the whole Keras model, which means tracing every layer several more
    times (most of an export's time), and every conversion would load all of that again.

    Args:
        saved_model: the module whose ``save`` the exporter calls with one concrete function as
            ``signatures``.

    Yields:
        A list that collects the concrete functions that are saved.
    """
    import tensorflow as tf

    original = saved_model.save
    saved: list[Any] = []

    def save(module: Any, folder: str, signatures: Any) -> None:
        saved.append(signatures)
        lean = tf.Module()
        # In order of use: the graph's own list of variables comes from a set.
        by_handle = {id(variable.handle): variable for variable in signatures.graph.variables}
        lean.captured = [
            by_handle[id(external)]
            for external, _ in signatures.graph.captures
            if id(external) in by_handle
        ]
        # Inference needs no gradients, and swish (EfficientDet) would add one per use.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        original(lean, folder, signatures=signatures, options=options)

    saved_model.save = save
    try:
        yield saved
    finally:
        saved_model.save = original
