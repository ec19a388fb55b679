"""Fold batch norms into constants that do not depend on the CPU.

In inference a batch norm is ``x * scale + shift`` with ``scale = gamma / sqrt(variance + eps)``.
Left in the graph, the converter folds that with float32 ``rsqrt``, which Eigen takes from the
CPU's approximate instruction: other CPUs, other bytes. Here scale and shift are computed in
float64 (where numpy uses only correctly rounded operations) *before* the converter sees them,
rounded once, and put into the graph as constants.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from stages.protocol.failures import StageError


def fold(gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float) -> tuple[Any, Any]:
    """Compute ``scale`` and ``shift`` of a batch norm in inference.

    Args:
        gamma, beta: float32 [channels], or None where the layer has none.
        mean, variance: float32 [channels].
        epsilon: added to the variance.

    Returns:
        (scale, shift), float32 [channels]: computed in float64, rounded once.
    """
    import numpy as np

    mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    factor = np.float64(1.0) if gamma is None else gamma.astype(np.float64)
    scale = factor / np.sqrt(variance + float(epsilon))
    shift = -mean * scale
    if beta is not None:
        shift = beta.astype(np.float64) + shift
    return scale.astype(np.float32), shift.astype(np.float32)


class Folded:
    """The constants that replaced batch norms in graphs, to be checked afterwards."""

    def __init__(self) -> None:
        self._calls: list[tuple[Any, Any, bytes]] = []

    def record(self, layer: Any, graph: Any, scale: Any, shift: Any) -> None:
        """Record that ``layer`` was written into ``graph`` with these constants."""
        self._calls.append((layer, graph, scale.tobytes() + shift.tobytes()))

    def check(self, model: Any, exported: Any) -> int:
        """Check that the exported graph holds every batch norm's *final* values.

        Layers are also traced while a model is being built, before its checkpoint is restored;
        those graphs are discarded and do not count.

        Args:
            model: the detection model, restored.
            exported: the graph that was exported.

        Returns:
            Number of batch norm layers in the exported graph.

        Raises:
            StageError: the exported graph holds values from before the restore, reads a batch
                norm's variables, or does not hold a batch norm of the model that was traced.
        """
        seen = set()
        for layer, graph, values in self._calls:
            if graph is exported:
                scale, shift = fold_layer(layer)
                if values != scale.tobytes() + shift.tobytes():
                    raise _stale(layer.name)
                seen.add(id(layer))
        read = {id(external) for external, _ in exported.captures}
        for layer in model.submodules:
            if hasattr(layer, "moving_variance"):
                traced = any(layer is other for other, _, _ in self._calls)
                if (traced and id(layer) not in seen) or any(
                    id(variable.handle) in read for variable in layer.variables
                ):
                    raise _stale(layer.name)
        return len(seen)


def fold_layer(layer: Any) -> tuple[Any, Any]:
    """Compute :func:`fold` of a Keras layer's current values."""
    return fold(
        layer.gamma.numpy() if layer.scale else None,
        layer.beta.numpy() if layer.center else None,
        layer.moving_mean.numpy(),
        layer.moving_variance.numpy(),
        layer.epsilon,
    )


@contextlib.contextmanager
def exact_batch_norms() -> Iterator[Folded]:
    """While active, every Keras batch norm traced for inference becomes ``x * scale + shift``.

    One method is replaced, in the base class of all Keras batch norms (fused, synchronised, the
    Object Detection API's freezable ones, automl's). Call :meth:`Folded.check` after tracing.
    """
    import tensorflow as tf

    try:
        from keras.src.layers.normalization import batch_normalization
    except ImportError:  # its location in Keras 2.8
        from keras.layers.normalization import batch_normalization

    base = batch_normalization.BatchNormalizationBase
    original = base.call
    folded = Folded()

    def call(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        graph = tf.compat.v1.get_default_graph()
        if tf.executing_eagerly() or graph.name.endswith("_scratch_graph"):
            # Eager, or Keras only infers shapes: none of this is exported.
            return original(self, inputs, training=training, mask=mask)
        if tf.get_static_value(self._get_training_value(training)) not in (False, 0):
            raise StageError(
                "unsupported-model", f"The batch norm {self.name} is not in inference mode."
            )
        with tf.init_scope():
            scale, shift = fold_layer(self)
        folded.record(self, graph, scale, shift)
        if list(self.axis) != [inputs.shape.rank - 1]:
            shape = [1] * inputs.shape.rank
            shape[self.axis[0]] = -1
            scale, shift = scale.reshape(shape), shift.reshape(shape)
        return inputs * tf.constant(scale) + tf.constant(shift)

    base.call = tf.autograph.experimental.do_not_convert(call)
    try:
        yield folded
    finally:
        base.call = original


def _stale(name: str) -> StageError:
    return StageError(
        "stage-failed",
        f"The exported graph does not hold the restored values of the batch norm {name}.",
        "This is a bug.",
    )
