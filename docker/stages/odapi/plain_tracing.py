"""Trace an Object Detection API model without AutoGraph, which takes half of an export's time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

#: Of a detection model of the Object Detection API.
_METHODS = ("preprocess", "predict", "postprocess")


@contextlib.contextmanager
def without_autograph(model: Any, methods: Sequence[str] = _METHODS) -> Iterator[None]:
    """While active, functions that trace the model's methods take their Python code as it is.

    AutoGraph rewrites the source of everything that is traced, so that conditions and loops may
    depend on tensors. The API's code is TensorFlow 1's and has no such conditions. Where there
    is one after all, tracing raises a ``TypeError``: TensorFlow refuses to use a tensor as a
    Python truth value, sequence or index. The graph of a trace that ends is therefore the same.

    Args:
        model: from ``model_builder.build``, or a Keras model.
        methods: names of its methods that are traced.
    """
    import tensorflow as tf

    for name in methods:
        setattr(model, name, tf.autograph.experimental.do_not_convert(getattr(model, name)))
    try:
        yield
    finally:
        for name in methods:
            delattr(model, name)
