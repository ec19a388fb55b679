"""Proves that a checkpoint went into a model: every variable, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from stages.failures import StageError

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_NAMED = 5  # how many variables a message names


def open_checkpoint(prefix: Path) -> Any:
    """A reader of the checkpoint's tensors; every tensor has been read once.

    Reading checks the tensors' checksums, so damage is found here and not in the middle of an
    export, where TensorFlow reports it in many ways.

    Raises:
        StageError: the files are damaged, or are not a TensorFlow 2 (object-based) checkpoint.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        for key in reader.get_variable_to_shape_map():
            reader.get_tensor(key)
    except Exception as error:  # TensorFlow raises many kinds here, all meaning the same
        raise _damaged(prefix, error) from error
    if not reader.has_tensor(_GRAPH_KEY):
        raise StageError(
            "checkpoint",
            f"{prefix.name} is a TensorFlow 1 checkpoint (it holds no object graph).",
            "Use a model of the TensorFlow 2 detection zoo, or one trained with TensorFlow 2.",
        )
    return reader


def restore(model: Any, prefix: Path) -> int:
    """Restore a model whose variables exist, and prove it (:func:`check_restored`).

    Returns:
        Number of the model's variables.

    Raises:
        StageError: the checkpoint does not fit the model.
    """
    import tensorflow as tf

    try:
        tf.train.Checkpoint(model=model).restore(str(prefix)).expect_partial()
    except ValueError as error:
        # Shapes that differ: the comparison says which.
        check_restored(model, prefix)
        raise mismatch(str(error), []) from error
    return check_restored(model, prefix)[0]


def check_restored(model: Any, prefix: Path) -> tuple[int, list[str]]:
    """Compare every variable of a built and restored model with the checkpoint.

    Args:
        model: the detection model, as the ``model`` child of the checkpoint's root.
        prefix: the checkpoint.

    Returns:
        (number of the model's variables, checkpoint keys below ``model`` that the model does
        not have).

    Raises:
        StageError: a variable is not in the checkpoint, has another shape there, or does not
            hold the checkpoint's value; the message names some of them.
    """
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    shapes = reader.get_variable_to_shape_map()
    keys = _checkpoint_keys(model, reader)
    missing = sorted(path for path, (_, key) in keys.items() if key not in shapes)
    if missing:
        what = f"{len(missing)} of the model's {len(keys)} variables are not in it"
        raise mismatch(what, missing)
    reshaped = sorted(
        f"{path} (model {list(variable.shape)}, checkpoint {list(shapes[key])})"
        for path, (variable, key) in keys.items()
        if list(variable.shape) != list(shapes[key])
    )
    if reshaped:
        raise mismatch(f"{len(reshaped)} variables have other shapes in it", reshaped)
    different = []
    for path, (variable, key) in keys.items():
        if variable.numpy().tobytes() != reader.get_tensor(key).tobytes():
            different.append(path)
    if different:
        raise mismatch(f"{len(different)} variables were not restored from it", sorted(different))
    used = {key for _, key in keys.values()}
    unused = sorted(
        key
        for key in shapes
        if key.startswith("model/") and ".OPTIMIZER_SLOT" not in key and key not in used
    )
    return len(keys), unused


def mismatch(what: str, names: list[str]) -> StageError:
    """The failure of a checkpoint that does not fit its model, naming some variables."""
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    return StageError(
        "checkpoint",
        f"The checkpoint does not fit the model: {what}: {shown}.",
        "pipeline.config and checkpoint must come from the same training run (same architecture,"
        " same num_classes).",
    )


def _checkpoint_keys(model: Any, reader: Any) -> dict[str, tuple[Any, Optional[str]]]:
    """Each model variable's path -> (variable, its key in the checkpoint or None).

    The key is found the way TensorFlow restores: by walking the checkpoint's own object graph
    along the model's attribute names. (Keys mostly look like these paths, but need not.)
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import trackable_object_graph_pb2
    from tensorflow.python.checkpoint.graph_view import ObjectGraphView

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor(_GRAPH_KEY))
    children = [{c.local_name: c.node_id for c in node.children} for node in graph.nodes]
    root = tf.train.Checkpoint(model=model)  # the view holds it weakly
    trackables, paths = ObjectGraphView(root).breadth_first_traversal()
    found: dict[str, tuple[Any, Optional[str]]] = {}
    for trackable in trackables:
        if not isinstance(trackable, tf.Variable):
            continue
        names = [reference.name for reference in paths[trackable]]
        if names[0] == "save_counter":
            continue  # the checkpoint object's own, not the model's
        node: Optional[int] = 0
        for name in names:
            node = None if node is None else children[node].get(name)
        attributes = [] if node is None else graph.nodes[node].attributes
        found["/".join(names)] = (
            trackable,
            attributes[0].checkpoint_key if len(attributes) else None,
        )
    return found


def _damaged(prefix: Path, error: Exception) -> StageError:
    return StageError(
        "checkpoint",
        f"The checkpoint {prefix.name} cannot be read: {_first_line(error)}.",
        "Its files are damaged or cut short; unpack or download the archive again.",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
