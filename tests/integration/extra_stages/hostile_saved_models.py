"""A stage of the tests: SavedModels with operations that read, write, call or connect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.protocol.request import REQUIRED

ENVIRONMENT = "main"

PARAMS = {
    "cases": REQUIRED,  # name -> [operation, path, address or pattern]
}

TOLD = 16
"""How many bytes of what it finds out a graph can say in its answer."""


def run(params: dict[str, Any], inputs: dict[str, Path], out: Path, emit: Any) -> dict[str, Any]:
    """Write a SavedModel ``out/<name>`` of each case, and a checkpoint of the same objects inside.

    They look like a CenterNet's export. What an operation finds out comes out as scores.
    """
    from stages.odapi import tensorflow_setup

    tf = tensorflow_setup.load()
    for name, (operation, where) in params["cases"].items():
        _save(tf, out / name, operation, where)
    return {}


def _save(tf: Any, folder: Path, operation: str, where: str) -> None:
    module = tf.Module()
    module.factor = tf.Variable(1.0)
    act: Callable[[Any, str], Any] = _ACTS.get(operation, _nothing)

    @tf.function(input_signature=[tf.TensorSpec([1, 64, 64, 3], tf.float32)])
    def detect(image: Any) -> dict[str, Any]:
        told = tf.concat([act(tf, where), tf.zeros(TOLD)], axis=0)[:TOLD]
        told = tf.reshape(told, [1, TOLD]) * module.factor
        seen = 0.0 * tf.reduce_mean(image)
        return {
            "output_0": tf.constant([float(TOLD)]) + seen,
            "output_1": told + seen,
            "output_2": tf.zeros([1, TOLD]) + seen,
            "output_3": tf.zeros([1, TOLD, 4]) + seen,
        }

    module.detect = detect
    tf.saved_model.save(module, str(folder), signatures=detect)
    tf.train.Checkpoint(model=module).save(str(folder / "training" / "ckpt"))
    if operation == "write while loading":
        _write_while_loading(tf, folder / "saved_model.pb", where)


def _nothing(tf: Any, where: str) -> Any:
    return tf.zeros(1)


def _as_numbers(tf: Any, text: Any) -> Any:
    return tf.cast(tf.io.decode_raw(text, tf.uint8), tf.float32) / 255.0


def _read(tf: Any, where: str) -> Any:
    return _as_numbers(tf, tf.io.read_file(where))


def _write(tf: Any, where: str) -> Any:
    with tf.control_dependencies([tf.io.write_file(where, "evil")]):
        return tf.ones(1)


def _match(tf: Any, where: str) -> Any:
    return tf.cast(tf.size(tf.io.matching_files(where)), tf.float32)[None]


def _restore(tf: Any, where: str) -> Any:
    (value,) = tf.raw_ops.RestoreV2(
        prefix=where, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    )
    return tf.reshape(value, [-1])


def _store(tf: Any, where: str) -> Any:
    saved = tf.raw_ops.SaveV2(
        prefix=where, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.ones(1)]
    )
    with tf.control_dependencies([saved]):
        return tf.ones(1)


def _call(tf: Any, where: str) -> Any:
    import numpy as np

    def evil() -> Any:
        Path(where).write_text("evil")
        return np.float32([1.0])

    return tf.reshape(tf.numpy_function(evil, [], tf.float32), [1])


def _connect(tf: Any, where: str) -> Any:
    variant = tf.data.Dataset.range(1)._variant_tensor
    number = tf.raw_ops.RegisterDataset(
        dataset=variant, address=where, protocol="grpc", external_state_policy=0
    )
    return tf.cast(number, tf.float32)[None]


_ACTS: dict[str, Callable[[Any, str], Any]] = {
    "read": _read,
    "write": _write,
    "match": _match,
    "restore": _restore,
    "store": _store,
    "call": _call,
    "connect": _connect,
}


def _write_while_loading(tf: Any, path: Path, where: str) -> None:
    """Make what a loader runs to initialise a graph write a file."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString(path.read_bytes())
    (meta,) = proto.meta_graphs
    graph = tf.Graph()
    with graph.as_default():
        tf.io.write_file(tf.constant(where, name="evil/where"), tf.constant("evil", name="evil/x"),
                         name="evil/write")  # fmt: skip
    meta.graph_def.node.extend(graph.as_graph_def().node)
    (output,) = meta.signature_def["__saved_model_init_op"].outputs.values()
    output.name = "evil/write"
    path.write_bytes(proto.SerializeToString())
